//! The page that is shown once everything has caught up: in Russian, because a school manager reads it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use schemas::Entity;
use schemas::problem::catalogue;
use serde::Serialize;

use super::gauge::Snapshot;
use super::outcomes::{Outcomes, Tally};

/// Most kinds of problems that are listed.
const MOST_PROBLEMS: usize = 15;

/// Everything that the page tells.
pub struct Summary<'s> {
    /// What came of the records.
    pub outcomes: &'s Outcomes,
    /// How the logs stand.
    pub snapshot: &'s Snapshot,
    /// Outcomes since this start.
    pub processed: u64,
    /// From the start to the last thing done.
    pub took: Duration,
    /// Requests since this start, where they were counted.
    pub requests: Option<Requests>,
    /// Where to look next: what, and where.
    pub places: &'s [(&'static str, String)],
}

/// The same for programs.
#[derive(Debug, Serialize)]
pub struct CaughtUp {
    /// False where it was stopped before that.
    pub caught_up: bool,
    /// What came of the contacts.
    pub contacts: Tally,
    /// What came of the deals.
    pub deals: Tally,
    /// Codes of what has to be corrected, with the number of records, the most frequent first.
    pub problems: Vec<Problem>,
    /// Outcomes since this start.
    pub processed: u64,
    /// From the start to the last thing done.
    pub took_seconds: f64,
    /// Messages that wait for another try.
    pub parked: u64,
    /// Messages that need a person.
    pub dead_letters: u64,
    /// Requests since this start, where they were counted.
    pub requests: Option<Requests>,
    /// Folder of the programs' logs.
    pub logs: String,
}

/// A kind of problem.
#[derive(Debug, Serialize)]
pub struct Problem {
    code: String,
    records: usize,
}

/// Requests to both CRMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// To Bitrix24.
    pub bitrix24: u64,
    /// Those of them that it refused because they were too many.
    pub refused: u64,
    /// To otmechalka.
    pub otmechalka: u64,
}

impl Summary<'_> {
    /// Puts the same together for programs.
    pub fn for_programs(&self, logs: String) -> CaughtUp {
        let problems = self.outcomes.problems().into_iter();
        CaughtUp {
            caught_up: true,
            contacts: self.outcomes.tally(Entity::Contact),
            deals: self.outcomes.tally(Entity::Deal),
            problems: problems.map(|(code, records)| Problem { code, records }).collect(),
            processed: self.processed,
            took_seconds: self.took.as_secs_f64(),
            parked: self.snapshot.parked.count,
            dead_letters: self.snapshot.dead_letters.stored,
            requests: self.requests,
            logs,
        }
    }

    /// Writes the page.
    pub fn text(&self) -> String {
        let mut page = String::new();
        self.write(&mut page).unwrap_or_default();
        page
    }

    fn write(&self, page: &mut String) -> std::fmt::Result {
        writeln!(page, "\nВсё, что есть в Битрикс24, обработано.\n")?;
        self.write_table(page)?;
        self.write_problems(page)?;
        self.write_leftovers(page)?;
        self.write_costs(page)?;
        writeln!(page, "\nГде смотреть дальше:")?;
        let width = self.places.iter().map(|(what, _)| what.chars().count()).max().unwrap_or(0);
        self.places.iter().try_for_each(|(what, place)| writeln!(page, "  {what:width$}  {place}"))
    }

    fn write_table(&self, page: &mut String) -> std::fmt::Result {
        writeln!(
            page,
            "{:22}{:>9}{:>15}{:>16}{:>15}",
            "", "всего", "в отмечалке", "не передаются", "исправить"
        )?;
        for (title, entity) in
            [("Ученики (контакты)", Entity::Contact), ("Абонементы (сделки)", Entity::Deal)]
        {
            let Tally { total, in_otmechalka, out_of_scope, refused } = self.outcomes.tally(entity);
            writeln!(page, "{title:22}{total:>9}{in_otmechalka:>15}{out_of_scope:>16}{refused:>15}")?;
        }
        Ok(())
    }

    fn write_problems(&self, page: &mut String) -> std::fmt::Result {
        let problems = self.outcomes.problems();
        if problems.is_empty() {
            return Ok(());
        }
        let titles = titles();
        writeln!(page, "\nЧто исправить (подробности – в поле «Статус синхронизации» каждой записи):")?;
        for (code, count) in problems.iter().take(MOST_PROBLEMS) {
            let title = titles.get(code.as_str()).copied().unwrap_or("Другое");
            writeln!(page, "{count:>7}  {title} [{code}]")?;
        }
        if problems.len() > MOST_PROBLEMS {
            let rest: usize = problems[MOST_PROBLEMS..].iter().map(|(_, count)| count).sum();
            writeln!(page, "{rest:>7}  по другим причинам")?;
        }
        Ok(())
    }

    fn write_leftovers(&self, page: &mut String) -> std::fmt::Result {
        let (parked, dead) = (self.snapshot.parked.count, self.snapshot.dead_letters.stored);
        if parked + dead > 0 {
            writeln!(page)?;
        }
        if parked > 0 {
            writeln!(page, "Ждут повторной попытки: {parked}")?;
        }
        if dead > 0 {
            writeln!(
                page,
                "Нужен администратор: сообщений, которые не удалось обработать, – {dead} (поток DLQ)"
            )?;
        }
        Ok(())
    }

    fn write_costs(&self, page: &mut String) -> std::fmt::Result {
        writeln!(page)?;
        if self.processed == 0 {
            writeln!(page, "С прошлого запуска ничего не изменилось: передавать было нечего.")?;
        } else {
            let seconds = self.took.as_secs_f64();
            writeln!(page, "Обработано за этот запуск: {} за {seconds:.0} с.", self.processed)?;
        }
        if let Some(Requests { bitrix24, refused, otmechalka }) = self.requests {
            writeln!(
                page,
                "Запросов: к Битрикс24 – {bitrix24} (отклонено {refused}), к отмечалке – {otmechalka}."
            )?;
        }
        Ok(())
    }
}

/// Returns what each kind of problem is called.
fn titles() -> HashMap<String, &'static str> {
    let mut titles = HashMap::new();
    for example in catalogue() {
        titles.entry(example.problem.code).or_insert(example.when);
    }
    titles
}

/// Tells in one line, in Russian like the page, what came of records that changed while everything was up.
pub fn news(outcomes: &Outcomes) -> String {
    let both = [outcomes.tally(Entity::Contact), outcomes.tally(Entity::Deal)];
    let sum = |part: fn(&Tally) -> usize| both.iter().map(part).sum::<usize>();
    format!(
        "изменено {}: в отмечалке {}, не передаются {}, исправить {}",
        sum(|tally| tally.total),
        sum(|tally| tally.in_otmechalka),
        sum(|tally| tally.out_of_scope),
        sum(|tally| tally.refused)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::outcomes::Ending;
    use schemas::{Outcome, RecordId, RecordRef};

    fn outcomes() -> Outcomes {
        let mut outcomes = Outcomes::default();
        let id = |id| RecordId::try_new(id).unwrap();
        let problems = vec!["phone.missing".to_owned(), "from.the.future".to_owned()];
        outcomes.note(RecordRef::contact(id(1)), Ending { outcome: Outcome::Refused, problems });
        outcomes.note(RecordRef::contact(id(2)), Ending { outcome: Outcome::Created, problems: Vec::new() });
        outcomes.note(RecordRef::deal(id(3)), Ending { outcome: Outcome::OutOfScope, problems: Vec::new() });
        outcomes
    }

    fn summary(processed: u64, outcomes: &Outcomes, snapshot: &Snapshot) -> String {
        let requests = Some(Requests { bitrix24: 33, refused: 0, otmechalka: 120 });
        let places = [("журналы", "state/logs".to_owned())];
        let took = Duration::from_millis(14_400);
        Summary { outcomes, snapshot, processed, took, requests, places: &places }.text()
    }

    #[test]
    fn the_page_tells_what_succeeded_was_skipped_and_is_to_be_corrected() {
        let page = summary(3, &outcomes(), &Snapshot::default());
        assert!(page.contains("Телефона нет [phone.missing]"), "{page}");
        assert!(page.contains("Другое [from.the.future]"), "{page}");
        assert!(page.contains("Обработано за этот запуск: 3 за 14 с."), "{page}");
        assert!(page.contains("к Битрикс24 – 33 (отклонено 0)"), "{page}");
        assert!(page.contains("state/logs"), "{page}");
        let row = page.lines().find(|line| line.starts_with("Ученики")).unwrap();
        let numbers: Vec<&str> = row.split_whitespace().skip(2).collect();
        assert_eq!(numbers, ["2", "1", "0", "1"]);
        assert!(!page.contains("администратор"), "{page}");
    }

    #[test]
    fn a_start_that_found_nothing_new_says_so() {
        let mut snapshot = Snapshot::default();
        snapshot.dead_letters.stored = 2;
        let page = summary(0, &Outcomes::default(), &snapshot);
        assert!(page.contains("ничего не изменилось") && page.contains("– 2 (поток DLQ)"), "{page}");
    }

    #[test]
    fn news_is_one_line() {
        assert_eq!(news(&outcomes()), "изменено 3: в отмечалке 1, не передаются 1, исправить 1");
    }
}
