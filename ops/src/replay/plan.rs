//! What a replay would do, record by record, and the hash that stands for it. Pure.

use std::collections::BTreeMap;
use std::fmt;

use schemas::problem::{ClientAbsence, is_want_of_client};
use schemas::{Entity, Mapping, Outcome, Problem, RecordId, RecordRef};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::comparison::{self, Difference, Privacy};
use crate::ledger::{Mark, Sent, Settled};

/// Where a replay goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Through otmechalka to the status.
    Pipeline,
    /// Outcomes alone, so that statuses are written again.
    StatusWriter,
    /// Plain messages under another subject.
    Sandbox(String),
}

/// What comes of a record, as far as can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// otmechalka gets a new client or ticket.
    Created,
    /// otmechalka's client is sent again.
    Updated,
    /// otmechalka is asked for its ticket, and is left alone where it has it.
    AlreadyThere,
    /// Nothing is sent to otmechalka, and the status says that a person has to correct something.
    Refused,
    /// Nothing is sent to otmechalka, and the status is a success.
    OutOfScope,
    /// Its outcome goes to the status-writer again.
    Retold,
    /// It goes to the sandbox.
    Copied,
    /// It is as it would be: nothing is done.
    Left,
    /// Its raw record cannot be read, or is no longer kept: nothing is done.
    Unreadable,
}

impl Action {
    /// Tells whether anything is published.
    pub fn is_done(self) -> bool {
        !matches!(self, Action::Left | Action::Unreadable)
    }

    /// Returns its name.
    pub fn word(self) -> &'static str {
        match self {
            Action::Created => "created",
            Action::Updated => "updated",
            Action::AlreadyThere => "already_there",
            Action::Refused => "refused",
            Action::OutOfScope => "out_of_scope",
            Action::Retold => "retold",
            Action::Copied => "copied",
            Action::Left => "left",
            Action::Unreadable => "unreadable",
        }
    }
}

/// A chosen record with all that decides about it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The record.
    pub record: RecordRef,
    /// Sequence of its newest raw version.
    pub raw_sequence: u64,
    /// What today's mapping makes of that; `None` where it cannot be read.
    pub today: Option<Mapping>,
    /// The command of its highest version.
    pub sent: Option<Sent>,
    /// Its newest outcome.
    pub settled: Option<Settled>,
}

impl Candidate {
    /// Tells whether otmechalka has a ticket of it. It has no call that changes one.
    pub fn has_ticket(&self) -> bool {
        let is_there = self.settled.as_ref().is_some_and(|settled| settled.is_in_otmechalka);
        self.record.entity == Entity::Deal && is_there
    }
}

/// A ticket that no replay puts right: today's mapping makes something else of the version that it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleTicket {
    /// Its deal.
    pub deal: RecordRef,
    /// What today's mapping does.
    pub today: Instead,
}

/// What there would be instead of a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instead {
    /// A ticket with other values in these fields.
    Fields(Vec<String>),
    /// None: the deal would be refused.
    Refused,
    /// None: nothing in the deal would concern otmechalka.
    OutOfScope,
}

impl StaleTicket {
    /// Compares the command by which a ticket was made with what today's mapping makes of the same version.
    pub fn of(deal: RecordRef, made: &Mapping, today: &Mapping) -> Option<StaleTicket> {
        let fields = || {
            let differences = comparison::differences(Some(made), today, Privacy::Masked);
            differences.into_iter().map(|difference| difference.field).collect()
        };
        let instead = match today {
            _ if made == today => return None,
            Mapping::Refused(_) => Instead::Refused,
            Mapping::OutOfScope => Instead::OutOfScope,
            Mapping::Ticket(_) | Mapping::Client(_) => Instead::Fields(fields()),
        };
        Some(StaleTicket { deal, today: instead })
    }
}

/// The contact of a ticket, where it is not chosen itself.
#[derive(Clone, Debug, Default)]
pub struct Pupil {
    /// The command of its highest version.
    pub sent: Option<Sent>,
    /// Its newest outcome.
    pub settled: Option<Settled>,
}

/// The chosen records, and what else decides about them.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// The records.
    pub candidates: Vec<Candidate>,
    /// Contacts of tickets.
    pub pupils: BTreeMap<RecordId, Pupil>,
}

/// What happens to one record.
#[derive(Clone, Debug)]
pub struct Step {
    /// The record and what decided about it.
    pub candidate: Candidate,
    /// What is done.
    pub action: Action,
    /// Why a ticket will have no client.
    pub absence: Option<ClientAbsence>,
}

impl Step {
    /// Returns what today's command has other than the one sent last.
    pub fn differences(&self, privacy: Privacy) -> Vec<Difference> {
        let before = self.candidate.sent.as_ref().map(|sent| &sent.mapping);
        let today = self.candidate.today.as_ref();
        today.map(|today| comparison::differences(before, today, privacy)).unwrap_or_default()
    }

    /// Returns the codes of what it is refused for.
    pub fn reasons(&self) -> Vec<String> {
        match self.absence {
            Some(absence) => vec![absence.code().to_owned()],
            None => self.candidate.today.as_ref().map(comparison::codes).unwrap_or_default(),
        }
    }
}

/// A replay, ready to be carried out.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is done, contacts before deals: a ticket needs its client. Only a deal that waits for its client with
    /// another command goes before, as the client's coming sends the newest command that there is.
    pub steps: Vec<Step>,
    /// Stands for all of it.
    pub hash: PlanHash,
}

impl Plan {
    /// Makes a plan out of the chosen records; `resend` also sends what is as it would be.
    pub fn of(chosen: Chosen, target: &Target, resend: bool, mark: Mark) -> Plan {
        let Chosen { mut candidates, pupils } = chosen;
        candidates.sort_by_key(|candidate| candidate.record);
        let mut steps: Vec<Step> = Vec::new();
        for candidate in candidates {
            let action = decide(&candidate, target, resend);
            let absence = match (action, &candidate.today) {
                (Action::Created, Some(Mapping::Ticket(ticket))) => {
                    absence(ticket.client_origin_id, &steps, &pupils)
                }
                _ => None,
            };
            let action = if absence.is_some() { Action::Refused } else { action };
            steps.push(Step { candidate, action, absence });
        }
        steps.sort_by_key(|step| (!is_before_its_client(step), step.candidate.record));
        let hash = PlanHash { mark, digest: digest(&steps, target) };
        Plan { steps, hash }
    }

    /// Counts the records by what is done.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        self.steps.iter().for_each(|step| *counts.entry(step.action.word()).or_default() += 1);
        counts
    }

    /// Counts the records for which something is published.
    pub fn work(&self) -> usize {
        self.steps.iter().filter(|step| step.action.is_done()).count()
    }
}

fn decide(candidate: &Candidate, target: &Target, resend: bool) -> Action {
    match (target, &candidate.today) {
        // What came of it is stored already.
        (Target::StatusWriter, _) => retell(candidate),
        (_, None) => Action::Unreadable,
        (Target::Sandbox(_), Some(_)) => Action::Copied,
        (Target::Pipeline, Some(today)) => send(candidate, today, resend),
    }
}

/// An outcome is told again where it is the record's newest word and nothing is on its way.
fn retell(candidate: &Candidate) -> Action {
    let Some(settled) = &candidate.settled else { return Action::Left };
    let is_on_its_way = candidate.sent.as_ref().is_some_and(|sent| sent.version > settled.version);
    let is_newest = settled.version.raw_sequence >= candidate.raw_sequence;
    match is_newest && !is_on_its_way && settled.outcome != Outcome::Superseded {
        true => Action::Retold,
        false => Action::Left,
    }
}

fn send(candidate: &Candidate, today: &Mapping, resend: bool) -> Action {
    let is_there = candidate.settled.as_ref().is_some_and(|settled| settled.is_in_otmechalka);
    let is_ticket_there = candidate.has_ticket();
    if !resend && (is_ticket_there || is_settled(candidate, today) || is_on_its_way(candidate, today)) {
        return Action::Left;
    }
    match today {
        _ if is_ticket_there => Action::AlreadyThere,
        Mapping::Refused(_) => Action::Refused,
        Mapping::OutOfScope => Action::OutOfScope,
        Mapping::Client(_) if is_there => Action::Updated,
        Mapping::Client(_) | Mapping::Ticket(_) => Action::Created,
    }
}

/// Tells why otmechalka will not have a contact's client, as far as the contacts' own steps and the streams say.
fn absence(contact: RecordId, steps: &[Step], pupils: &BTreeMap<RecordId, Pupil>) -> Option<ClientAbsence> {
    let step = steps.binary_search_by_key(&RecordRef::contact(contact), |step| step.candidate.record);
    let step = step.ok().map(|place| &steps[place]);
    let pupil = pupils.get(&contact);
    let (sent, settled) = match step {
        Some(Step { candidate, .. }) => (candidate.sent.as_ref(), candidate.settled.as_ref()),
        None => (pupil.and_then(|pupil| pupil.sent.as_ref()), pupil.and_then(|pupil| pupil.settled.as_ref())),
    };
    // Whatever becomes of its contact, a client that is there stays there.
    if settled.is_some_and(|settled| settled.is_in_otmechalka) {
        return None;
    }
    match step.map(|step| step.action) {
        Some(Action::Created | Action::Updated) => None,
        Some(Action::Refused) => Some(ClientAbsence::Refused),
        Some(Action::OutOfScope) => Some(ClientAbsence::OutOfScope),
        _ => absence_so_far(sent, settled),
    }
}

/// Tells why a client is not there and not on its way.
fn absence_so_far(sent: Option<&Sent>, settled: Option<&Settled>) -> Option<ClientAbsence> {
    let open = sent.filter(|sent| settled.is_none_or(|settled| settled.version < sent.version));
    match (open.map(|open| &open.mapping), settled.map(|settled| settled.outcome)) {
        (Some(Mapping::Client(_)), _) | (None, Some(Outcome::Superseded)) => None,
        (Some(Mapping::OutOfScope), _) | (None, Some(Outcome::OutOfScope)) => Some(ClientAbsence::OutOfScope),
        (Some(_), _) | (None, Some(_)) => Some(ClientAbsence::Refused),
        (None, None) => Some(ClientAbsence::NotRead),
    }
}

/// Tells whether a deal is sent that waits for its client with another command than today's.
fn is_before_its_client(step: &Step) -> bool {
    step.action.is_done()
        && step.candidate.record.entity == Entity::Deal
        && step.candidate.settled.as_ref().is_some_and(wants_client)
}

fn wants_client(settled: &Settled) -> bool {
    settled.problems.iter().any(|problem: &Problem| is_want_of_client(&problem.code))
}

/// Tells whether the newest outcome is the one that today's mapping would come to.
fn is_settled(candidate: &Candidate, today: &Mapping) -> bool {
    let Some(settled) = &candidate.settled else { return false };
    if settled.version.raw_sequence < candidate.raw_sequence {
        return false;
    }
    match today {
        Mapping::Refused(problems) => settled.outcome == Outcome::Refused && settled.problems == *problems,
        Mapping::OutOfScope => settled.outcome == Outcome::OutOfScope,
        Mapping::Client(_) => settled.outcome.is_in_otmechalka() && was_sent(candidate, settled, today),
        Mapping::Ticket(_) => {
            // The pusher sends it again by itself once its client is there.
            wants_client(settled) && was_sent(candidate, settled, today)
        }
    }
}

/// Tells whether the newest outcome is that of just this command.
fn was_sent(candidate: &Candidate, settled: &Settled, today: &Mapping) -> bool {
    let sent = candidate.sent.as_ref().filter(|sent| sent.version == settled.version);
    sent.is_some_and(|sent| sent.mapping == *today)
}

/// Tells whether just this command was sent and has no outcome yet.
fn is_on_its_way(candidate: &Candidate, today: &Mapping) -> bool {
    let Some(sent) = &candidate.sent else { return false };
    let is_open = candidate.settled.as_ref().is_none_or(|settled| settled.version < sent.version);
    is_open && sent.version.raw_sequence >= candidate.raw_sequence && sent.mapping == *today
}

/// Stands for a plan, and for where the streams stood when it was made.
///
/// A plan is made again from the streams up to there, so what is published later, by itself or by live traffic,
/// does not make it another plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanHash {
    /// Where the streams stood.
    pub mark: Mark,
    digest: String,
}

impl PlanHash {
    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Result<PlanHash, String> {
        let parts: Vec<&str> = text.trim().split('-').collect();
        let number = |part: &str| part.parse::<u64>().ok();
        let hash = match parts[..] {
            [raw, commands, results, digest] => (|| {
                let mark = Mark { raw: number(raw)?, commands: number(commands)?, results: number(results)? };
                Some(PlanHash { mark, digest: digest.to_ascii_lowercase() })
            })(),
            _ => None,
        };
        hash.ok_or_else(|| "the hash that the plan ends with, like 120-118-117-9f86d081…".to_owned())
    }
}

impl fmt::Display for PlanHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mark { raw, commands, results } = self.mark;
        write!(f, "{raw}-{commands}-{results}-{}", self.digest)
    }
}

/// Digests records, raw sequences, commands, and what is done with them where.
fn digest(steps: &[Step], target: &Target) -> String {
    let mut sha = Sha256::new();
    sha.update(format!("{target:?}\n"));
    for step in steps {
        let Step { candidate, action, .. } = step;
        // Mappings always serialise; one that is absent is told from every one that is there.
        let today = candidate.today.as_ref().and_then(|today| serde_json::to_string(today).ok());
        let settled = candidate.settled.as_ref().filter(|_| *action == Action::Retold);
        let settled = settled.map(|settled| settled.sequence);
        let (record, raw_sequence) = (candidate.record, candidate.raw_sequence);
        let (word, reasons) = (action.word(), step.reasons());
        sha.update(format!("{record} {raw_sequence} {word} {reasons:?} {settled:?} {today:?}\n"));
    }
    sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::comparison::tests::client;
    use crate::records;
    use chrono::DateTime;
    use schemas::problem::ClientAbsence;
    use schemas::{RecordId, Ticket, Version};

    const MARK: Mark = Mark { raw: 120, commands: 118, results: 117 };

    fn contact(id: u64) -> RecordRef {
        RecordRef::contact(RecordId::try_new(id).unwrap())
    }

    fn sent(raw_sequence: u64, redrive: u64, mapping: Mapping) -> Option<Sent> {
        Some(Sent { sequence: 1, version: Version { raw_sequence, redrive }, mapping })
    }

    fn settled(raw_sequence: u64, redrive: u64, outcome: Outcome) -> Option<Settled> {
        Some(Settled {
            sequence: 1,
            stored: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            version: Version { raw_sequence, redrive },
            outcome,
            problems: Vec::new(),
            is_in_otmechalka: outcome.is_in_otmechalka(),
        })
    }

    fn ticket(pupil: RecordId, branchoffice: &str) -> Mapping {
        Mapping::Ticket(Ticket {
            client_origin_id: pupil,
            ticket_type: "Пробное занятие".into(),
            price_initial: "500.00".into(),
            discount: "0.00".into(),
            price_final: "500.00".into(),
            selling_date: "2026-01-13".parse().unwrap(),
            selling_branchoffice: branchoffice.into(),
            employee: "Василий Василенко".into(),
            payment_method: "CASH".into(),
        })
    }

    fn candidate(today: Mapping, sent: Option<Sent>, settled: Option<Settled>) -> Candidate {
        Candidate { record: contact(1), raw_sequence: 5, today: Some(today), sent, settled }
    }

    fn action(candidate: &Candidate) -> Action {
        decide(candidate, &Target::Pipeline, false)
    }

    #[test]
    fn what_differs_from_what_was_sent_is_sent() {
        let (old, new) = (client("Берёзкин", "1"), client("Берёзкин", "2"));
        let updated = settled(5, 0, Outcome::Updated);
        assert_eq!(action(&candidate(new.clone(), None, None)), Action::Created);
        assert_eq!(
            action(&candidate(new.clone(), sent(5, 0, old.clone()), updated.clone())),
            Action::Updated
        );
        let same = candidate(old.clone(), sent(5, 0, old.clone()), updated.clone());
        assert_eq!(action(&same), Action::Left);
        assert_eq!(decide(&same, &Target::Pipeline, true), Action::Updated);
        // Sent by an earlier run, and not settled yet.
        assert_eq!(action(&candidate(new.clone(), sent(5, 1, new.clone()), updated)), Action::Left);
        // The newest raw version was never settled.
        assert_eq!(
            action(&candidate(new.clone(), sent(4, 0, new), settled(4, 0, Outcome::Created))),
            Action::Updated
        );
    }

    #[test]
    fn a_refusal_by_otmechalka_is_tried_again_and_one_by_the_mapping_only_where_it_changed() {
        let body = client("Берёзкин", "1");
        let by_otmechalka =
            candidate(body.clone(), sent(5, 0, body.clone()), settled(5, 0, Outcome::Refused));
        assert_eq!(action(&by_otmechalka), Action::Created);
        let problems = vec![Problem::new("branch.unknown", "…")];
        let mut refused = settled(5, 0, Outcome::Refused);
        refused.as_mut().unwrap().problems = problems.clone();
        let mapping = Mapping::Refused(problems);
        assert_eq!(
            action(&candidate(mapping.clone(), sent(5, 0, mapping.clone()), refused.clone())),
            Action::Left
        );
        assert_eq!(action(&candidate(body, sent(5, 0, mapping.clone()), refused)), Action::Created);
        let created = settled(5, 0, Outcome::Created);
        assert_eq!(action(&candidate(mapping, None, created.clone())), Action::Refused);
        assert_eq!(action(&candidate(Mapping::OutOfScope, None, created)), Action::OutOfScope);
    }

    #[test]
    fn a_ticket_that_is_there_is_left() {
        let deal = Candidate {
            record: RecordRef::deal(RecordId::try_new(1).unwrap()),
            ..candidate(Mapping::OutOfScope, None, settled(5, 0, Outcome::AlreadyThere))
        };
        assert_eq!(action(&deal), Action::Left);
        assert_eq!(decide(&deal, &Target::Pipeline, true), Action::AlreadyThere);
    }

    #[test]
    fn a_ticket_that_another_mapping_made_is_told_with_what_there_would_be_instead() {
        let pupil = RecordId::try_new(7).unwrap();
        let made = ticket(pupil, "2633");
        let told = |today: &Mapping| StaleTicket::of(RecordRef::deal(pupil), &made, today);
        assert_eq!(told(&made), None);
        let fields = Instead::Fields(vec!["selling_branchoffice".to_owned()]);
        assert_eq!(told(&ticket(pupil, "48")).unwrap().today, fields);
        let refusal = Mapping::Refused(vec![Problem::new("branch.unknown", "…")]);
        assert_eq!(told(&refusal).unwrap().today, Instead::Refused);
        assert_eq!(told(&Mapping::OutOfScope).unwrap().today, Instead::OutOfScope);
    }

    #[test]
    fn a_ticket_that_waits_for_its_client_follows_by_itself() {
        let pupil = RecordId::try_new(7).unwrap();
        let ticket = ticket(pupil, "2633");
        let mut refused = settled(5, 0, Outcome::Refused);
        refused.as_mut().unwrap().problems = vec![Problem::client_missing(pupil, ClientAbsence::Refused)];
        let record = RecordRef::deal(pupil);
        let waiting =
            Candidate { record, ..candidate(ticket.clone(), sent(5, 0, ticket.clone()), refused.clone()) };
        assert_eq!(action(&waiting), Action::Left);
        // Its command is no longer kept, so nobody but a replay can bring it back.
        assert_eq!(action(&Candidate { record, ..candidate(ticket, None, refused) }), Action::Created);
    }

    /// What is planned for a deal whose pupil has these, and was chosen too or not.
    fn with_pupil(
        is_chosen: bool,
        today: Mapping,
        sent: Option<Sent>,
        settled: Option<Settled>,
    ) -> (Action, Vec<String>) {
        let deal = RecordRef::deal(RecordId::try_new(9).unwrap());
        let of_deal = candidate(ticket(RecordId::try_new(1).unwrap(), "2633"), None, None);
        let mut chosen =
            Chosen { candidates: vec![Candidate { record: deal, ..of_deal }], ..Chosen::default() };
        if is_chosen {
            chosen.candidates.push(candidate(today, sent, settled));
        } else {
            chosen.pupils.insert(RecordId::try_new(1).unwrap(), Pupil { sent, settled });
        }
        let plan = Plan::of(chosen, &Target::Pipeline, false, MARK);
        let step = plan.steps.iter().find(|step| step.candidate.record == deal).unwrap();
        (step.action, step.reasons())
    }

    #[test]
    fn a_ticket_without_its_client_is_planned_as_refused() {
        let body = client("Берёзкин", "1");
        let refusal = Mapping::Refused(vec![Problem::new("phone.missing", "…")]);
        let refused = |code: &str| (Action::Refused, vec![code.to_owned()]);
        let created = (Action::Created, Vec::new());
        let there = settled(5, 0, Outcome::Created);
        for is_chosen in [true, false] {
            let with = |today: &Mapping, sent, settled| with_pupil(is_chosen, today.clone(), sent, settled);
            assert_eq!(with(&body, sent(5, 0, body.clone()), there.clone()), created);
            assert_eq!(with(&refusal, None, there.clone()), created, "a client that is there stays");
            assert_eq!(with(&body, sent(5, 0, body.clone()), None), created, "it is on its way");
            let missing = with(&refusal, sent(5, 0, refusal.clone()), settled(5, 0, Outcome::Refused));
            assert_eq!(missing, refused("client.missing"));
            let out_of_scope = settled(5, 0, Outcome::OutOfScope);
            assert_eq!(with(&Mapping::OutOfScope, None, out_of_scope), refused("client.out_of_scope"));
        }
        let out_of_scope = || settled(5, 0, Outcome::OutOfScope);
        assert_eq!(with_pupil(true, body.clone(), None, out_of_scope()), created, "it is sent first");
        assert_eq!(with_pupil(false, body.clone(), None, out_of_scope()), refused("client.out_of_scope"));
        assert_eq!(with_pupil(false, body, None, None), refused("client.not_read"));
    }

    #[test]
    fn a_deal_that_waits_with_another_command_goes_before_its_client() {
        let pupil = RecordId::try_new(1).unwrap();
        let mut waiting = settled(5, 0, Outcome::Refused);
        waiting.as_mut().unwrap().problems = vec![Problem::client_missing(pupil, ClientAbsence::OutOfScope)];
        let deal = candidate(ticket(pupil, "2633"), sent(5, 0, ticket(pupil, "48")), waiting);
        let new = Candidate {
            record: RecordRef::deal(RecordId::try_new(8).unwrap()),
            ..candidate(ticket(pupil, "2633"), None, None)
        };
        let of_contact = candidate(client("Берёзкин", "1"), None, settled(5, 0, Outcome::OutOfScope));
        let deal = Candidate { record: RecordRef::deal(RecordId::try_new(9).unwrap()), ..deal };
        let chosen = Chosen { candidates: vec![new, deal, of_contact], ..Chosen::default() };
        let plan = Plan::of(chosen, &Target::Pipeline, false, MARK);
        let order: Vec<String> = plan.steps.iter().map(|step| records::name(step.candidate.record)).collect();
        assert_eq!(order, ["deal/9", "contact/1", "deal/8"]);
        assert!(plan.steps.iter().all(|step| step.action == Action::Created));
    }

    #[test]
    fn an_outcome_is_told_again_only_where_nothing_newer_is_coming() {
        let body = client("Берёзкин", "1");
        let told = |candidate: &Candidate| decide(candidate, &Target::StatusWriter, false);
        let updated = settled(5, 0, Outcome::Updated);
        assert_eq!(told(&candidate(body.clone(), sent(5, 0, body.clone()), updated.clone())), Action::Retold);
        assert_eq!(told(&candidate(body.clone(), sent(5, 1, body.clone()), updated)), Action::Left);
        assert_eq!(
            told(&candidate(body.clone(), sent(4, 0, body.clone()), settled(4, 0, Outcome::Created))),
            Action::Left
        );
        assert_eq!(told(&candidate(body.clone(), sent(5, 0, body), None)), Action::Left);
    }

    #[test]
    fn the_hash_stands_for_records_versions_commands_and_the_target() {
        let hash = |candidates: Vec<Candidate>, target: &Target| {
            let chosen = Chosen { candidates, ..Chosen::default() };
            Plan::of(chosen, target, false, MARK).hash.to_string()
        };
        let base = candidate(client("Берёзкин", "1"), None, None);
        let first = hash(vec![base.clone()], &Target::Pipeline);
        let second = Candidate { record: contact(2), ..base.clone() };
        let both = hash(vec![base.clone(), second.clone()], &Target::Pipeline);
        assert_eq!(both, hash(vec![second.clone(), base.clone()], &Target::Pipeline));
        let others = [
            hash(vec![second], &Target::Pipeline),
            hash(vec![Candidate { raw_sequence: 6, ..base.clone() }], &Target::Pipeline),
            hash(vec![candidate(client("Берёзкин", "2"), None, None)], &Target::Pipeline),
            hash(vec![base], &Target::Sandbox("sandbox.crm.cmd".into())),
            both,
        ];
        assert!(others.iter().all(|other| *other != first));
        assert!(first.starts_with("120-118-117-"), "{first}");
        assert_eq!(PlanHash::parse(&first).unwrap().to_string(), first);
        for wrong in ["", "abc", "1-2-abc", "a-2-3-abc"] {
            assert!(PlanHash::parse(wrong).is_err(), "{wrong}");
        }
    }
}
