//! The words of the page in both languages.

use chrono::{DateTime, FixedOffset, Offset, TimeDelta, Utc};
use schemas::{Answered, Entity};

use crate::answer::Finding;
use crate::history;
use crate::status::{Condition, rounded};

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

    /// Says how long something is, in its two largest units.
    pub fn age(self, age: TimeDelta) -> String {
        if self == Language::English {
            return rounded(age);
        }
        let seconds = age.num_seconds().max(0);
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
        let parts = [(days, "д"), (hours, "ч"), (minutes, "мин"), (seconds % 60, "с")];
        let largest = parts.iter().position(|(count, _)| *count > 0).unwrap_or(parts.len() - 1);
        let told = parts.iter().skip(largest).take(2).enumerate();
        let told = told.filter(|(place, (count, _))| *place == 0 || *count > 0);
        told.map(|(_, (count, unit))| format!("{count} {unit}")).collect::<Vec<_>>().join(" ")
    }

    /// Says how long ago something was.
    pub fn ago(self, age: TimeDelta) -> String {
        format!("{} {}", self.age(age), self.pick("назад", "ago"))
    }

    /// Says what somebody should look at; what has no Russian words is said in English.
    pub fn finding(self, finding: &Finding) -> String {
        let english = format!("{}. {}", finding.message, finding.action);
        if self == Language::English {
            return english;
        }
        let (what, found) = finding.message.split_once(": ").unwrap_or_default();
        let what = match what {
            "contacts" => self.records(Entity::Contact),
            "deals" => self.records(Entity::Deal),
            other => other,
        };
        match finding.code {
            "watermark" if found == "never read" => {
                format!("{what}: ещё не читались. Запустите producer; чего он ждёт, видно в его журнале")
            }
            "watermark" => format!(
                "{what}: давно ничего не прочитано. Битрикс24 не отвечает, или не работает producer: смотрите его журнал"
            ),
            "stage_frozen" => format!("{what}: есть работа, но стоит. Смотрите журнал этого этапа"),
            "consumer_missing" => format!("{what}: нет подписки. Выполните `rollcall bootstrap`"),
            "operating" => format!(
                "{what}: вычислительное время Битрикс24 почти израсходовано. Запросы ждут, ничего не теряется"
            ),
            "dead_letters" => {
                "Есть сообщения, которым нужен человек: `rollcall dead-letters list` показывает их".to_owned()
            }
            _ => english,
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

/// The zone that times are shown in: the portal's, or UTC where that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone(Option<FixedOffset>);

impl Zone {
    /// Where nothing is known of the portal's.
    pub const UTC: Zone = Zone(None);

    /// Takes the zone of a moment that the portal told.
    pub fn of(moment: &DateTime<FixedOffset>) -> Zone {
        Zone(Some(moment.offset().fix()))
    }

    /// Writes a moment.
    pub fn moment(self, moment: DateTime<Utc>) -> String {
        match self.0 {
            Some(zone) => moment.with_timezone(&zone).format("%Y-%m-%d %H:%M %:z").to_string(),
            None => moment.format("%Y-%m-%d %H:%M UTC").to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_told_in_two_units_of_the_language() {
        for (seconds, russian, english) in [
            (0, "0 с назад", "0s ago"),
            (59, "59 с назад", "59s ago"),
            (90, "1 мин 30 с назад", "1m 30s ago"),
            (3_600, "1 ч назад", "1h ago"),
            (90_061, "1 д 1 ч назад", "1day 1h ago"),
            (172_805, "2 д назад", "2days ago"),
            (-5, "0 с назад", "0s ago"),
        ] {
            let age = TimeDelta::seconds(seconds);
            assert_eq!(
                (Language::Russian.ago(age).as_str(), Language::English.ago(age).as_str()),
                (russian, english)
            );
        }
    }

    #[test]
    fn a_moment_is_told_in_the_portals_zone() {
        let moment = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        assert_eq!(Zone::UTC.moment(moment), "2027-01-15 08:00 UTC");
        let told = DateTime::parse_from_rfc3339("2026-01-10T10:00:00+03:00").unwrap();
        assert_eq!(Zone::of(&told).moment(moment), "2027-01-15 11:00 +03:00");
    }

    #[test]
    fn what_is_asked_for_comes_before_what_the_browser_prefers() {
        assert_eq!(Language::choose(None, None), Language::Russian);
        assert_eq!(Language::choose(None, Some("en-GB,en;q=0.9,ru;q=0.8")), Language::English);
        assert_eq!(Language::choose(None, Some("de")), Language::Russian);
        assert_eq!(Language::choose(Some("ru"), Some("en")), Language::Russian);
        assert_eq!(Language::choose(Some("EN"), None), Language::English);
    }
}
