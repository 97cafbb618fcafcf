//! The words of the page in both languages.

use schemas::{Answered, Entity};

use crate::history;
use crate::status::Condition;

/// A language of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Russian, which the school's managers read.
    Russian,
    /// English.
    English,
}

impl Language {
    /// Takes what was asked for, else what the browser prefers, else Russian.
    pub fn choose(asked: Option<&str>, accepted: Option<&str>) -> Language {
        let first = accepted.and_then(|header| header.split([',', ';', '-']).next());
        match asked.or(first).map(str::trim) {
            Some(tag) if tag.eq_ignore_ascii_case("en") => Language::English,
            _ => Language::Russian,
        }
    }

    /// Returns its tag.
    pub fn tag(self) -> &'static str {
        self.pick("ru", "en")
    }

    /// Returns the other one.
    pub fn other(self) -> Language {
        match self {
            Language::Russian => Language::English,
            Language::English => Language::Russian,
        }
    }

    /// Takes the text of this language.
    pub fn pick(self, russian: &'static str, english: &'static str) -> &'static str {
        match self {
            Language::Russian => russian,
            Language::English => english,
        }
    }

    /// Names records of a kind.
    pub fn records(self, entity: Entity) -> &'static str {
        match entity {
            Entity::Contact => self.pick("Контакты", "Contacts"),
            Entity::Deal => self.pick("Сделки", "Deals"),
        }
    }

    /// Names a record of a kind.
    pub fn record(self, entity: Entity) -> &'static str {
        match entity {
            Entity::Contact => self.pick("Контакт", "Contact"),
            Entity::Deal => self.pick("Сделка", "Deal"),
        }
    }

    /// Says how a stage is doing.
    pub fn condition(self, condition: Condition) -> &'static str {
        match condition {
            Condition::Idle => self.pick("всё сделано", "idle"),
            Condition::Working => self.pick("работает", "working"),
            Condition::ActiveButFrozen => self.pick("есть работа, но стоит", "active but frozen"),
            Condition::Missing => self.pick("нет подписки", "consumer missing"),
        }
    }

    /// Says what otmechalka answered to a try.
    pub fn answered(self, answered: &Answered) -> String {
        if self == Language::English {
            return history::answered(answered);
        }
        let call = match answered.call.as_str() {
            "get_client" => "поиск клиента",
            "create_client" => "создание клиента",
            "update_client" => "обновление клиента",
            "get_ticket" => "поиск абонемента",
            "create_ticket" => "создание абонемента",
            other => other,
        };
        let said = match answered.kind.as_str() {
            "unreachable" => "нет связи",
            "untrusted" => "не доказано, что это отмечалка",
            "timed_out" => "не ответила вовремя",
            "interrupted" => "связь прервалась",
            "unavailable" => "не справляется",
            "garbled" => "непонятный ответ",
            "rate_limited" => "просит подождать",
            "unauthorized" => "не принимает токен",
            "not_found" => "записи там нет",
            "refused" => "не приняла",
            other => other,
        };
        let status = answered.status.map(|status| format!("{status}, ")).unwrap_or_default();
        format!("{call}: {status}{said}")
    }

    /// Names an outcome.
    pub fn outcome(self, name: &str) -> &str {
        let (russian, english) = match name {
            "created" => ("создано", "created"),
            "updated" => ("обновлено", "updated"),
            "unchanged" => ("без изменений", "unchanged"),
            "already_there" => ("уже было", "already there"),
            "out_of_scope" => ("не касается отмечалки", "out of scope"),
            "refused" => ("с ошибкой", "refused"),
            "superseded" => ("заменено новой версией", "superseded"),
            other => return other,
        };
        self.pick(russian, english)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_comes_before_what_the_browser_prefers() {
        assert_eq!(Language::choose(None, None), Language::Russian);
        assert_eq!(Language::choose(None, Some("en-GB,en;q=0.9,ru;q=0.8")), Language::English);
        assert_eq!(Language::choose(None, Some("de")), Language::Russian);
        assert_eq!(Language::choose(Some("ru"), Some("en")), Language::Russian);
        assert_eq!(Language::choose(Some("EN"), None), Language::English);
    }
}
