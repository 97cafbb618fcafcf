//! Carries a plan out, and nothing else, at its own pace behind live traffic.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mapper::Rules;
use schemas::{RecordProcessed, RecordRef, Version};

use super::gather::raw;
use super::plan::{Plan, Step, Target};
use crate::again::{Again, Sent, send_again};
use crate::exit::Failure;
use crate::ledger::{Ledger, unseen};
use crate::signals::Signals;

/// Most messages that may wait for the next stage, of whoever, before the replay waits as well.
const MOST_WAITING: u64 = 8;

/// Pause between two looks at what waits.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Looks after which the operator is told what the replay waits for.
const PATIENT_LOOKS: u32 = 10;

/// What a replay did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Records that were published.
    pub published: Vec<RecordRef>,
    /// Records that an earlier run of the same plan has published.
    pub done_before: Vec<RecordRef>,
    /// Records that were left out, and why.
    pub left_out: Vec<(RecordRef, String)>,
    /// Why it ended early.
    pub stopped: Option<String>,
}

/// What became of one step.
enum Ended {
    Published,
    DoneBefore,
    LeftOut(String),
}

/// Who carries a plan out.
pub struct Replay<'r> {
    /// The streams.
    pub ledger: &'r Ledger,
    /// Today's mapping.
    pub rules: &'r Rules,
    /// Where it goes.
    pub target: &'r Target,
    /// Records a second.
    pub rate: f64,
}

impl Replay<'_> {
    /// Does what the plan says, contacts first.
    pub async fn carry_out(&self, plan: &Plan) -> Result<Report, Failure> {
        let stopping = self.ledger.broker.stopping().clone();
        let mut signals = Signals::listen()?;
        tokio::spawn(async move {
            signals.next().await;
            stopping.cancel();
        });
        let bar = progress_bar(plan.work());
        let mut report = Report::default();
        for step in plan.steps.iter().filter(|step| step.action.is_done()) {
            let ended = match self.wait_for_turn(&bar).await {
                Ok(()) => self.take(step, plan).await,
                Err(failure) => Err(failure),
            };
            let record = step.candidate.record;
            match ended {
                Ok(Ended::Published) => report.published.push(record),
                Ok(Ended::DoneBefore) => report.done_before.push(record),
                Ok(Ended::LeftOut(reason)) => report.left_out.push((record, reason)),
                Err(failure) => {
                    report.stopped = Some(failure.text);
                    break;
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        if matches!(self.target, Target::Sandbox(_)) {
            self.ledger.broker.client().flush().await.map_err(Failure::trouble)?;
        }
        Ok(report)
    }

    /// Keeps the pace, and lets live traffic go first.
    async fn wait_for_turn(&self, bar: &ProgressBar) -> Result<(), Failure> {
        let pause = async |pause| {
            let broker = &self.ledger.broker;
            broker.pause(pause).await.map_err(|_| Failure::trouble("it was interrupted"))
        };
        pause(Duration::from_secs_f64(1.0 / self.rate)).await?;
        let mut looks = 0_u32;
        loop {
            let (waiting, stage) = match self.target {
                Target::Pipeline => (self.ledger.waiting_for_pusher().await?, "pusher"),
                Target::StatusWriter => (self.ledger.waiting_for_status_writer().await?, "status-writer"),
                Target::Sandbox(_) => return Ok(()),
            };
            if waiting <= MOST_WAITING {
                bar.set_message("");
                return Ok(());
            }
            looks += 1;
            bar.set_message(format!("waiting: {waiting} messages are before the {stage}"));
            if looks == PATIENT_LOOKS && bar.is_hidden() {
                eprintln!("Waiting: {waiting} messages are before the {stage}, which goes first.");
            }
            pause(LOOK_AGAIN).await?;
        }
    }

    async fn take(&self, step: &Step, plan: &Plan) -> Result<Ended, Failure> {
        match self.target {
            Target::StatusWriter => self.retell(step).await,
            Target::Sandbox(prefix) => self.copy(step, prefix).await,
            Target::Pipeline => self.send(step, plan).await,
        }
    }

    async fn send(&self, step: &Step, plan: &Plan) -> Result<Ended, Failure> {
        let candidate = &step.candidate;
        let sent = self.ledger.all_commands(candidate.record).await?;
        let is_ours = |sent: &crate::ledger::Sent| {
            sent.sequence > plan.hash.mark.commands
                && sent.version.redrive > 0
                && sent.version.raw_sequence == candidate.raw_sequence
                && candidate.today.as_ref() == Some(&sent.mapping)
        };
        if sent.iter().any(is_ours) {
            return Ok(Ended::DoneBefore);
        }
        let Some((envelope, changed)) = raw(self.ledger, candidate.raw_sequence).await? else {
            return Ok(Ended::LeftOut("its raw record is no longer kept".to_owned()));
        };
        self.publish(&Again::Raw(envelope, changed), candidate.raw_sequence).await
    }

    async fn retell(&self, step: &Step) -> Result<Ended, Failure> {
        let candidate = &step.candidate;
        let Some(planned) = &candidate.settled else { return Ok(Ended::LeftOut(NO_OUTCOME.to_owned())) };
        let Some(newest) = self.ledger.newest_result(candidate.record).await? else {
            return Ok(Ended::LeftOut(NO_OUTCOME.to_owned()));
        };
        let Ok((envelope, processed)) = newest.decode::<RecordProcessed>() else {
            return Ok(Ended::LeftOut("its newest outcome cannot be read".to_owned()));
        };
        let version = envelope.version.unwrap_or(Version { raw_sequence: 0, redrive: 0 });
        if newest.sequence != planned.sequence {
            let is_same =
                version.raw_sequence == planned.version.raw_sequence && processed.outcome == planned.outcome;
            return Ok(match is_same {
                true => Ended::DoneBefore,
                false => Ended::LeftOut("another outcome came meanwhile".to_owned()),
            });
        }
        let sent = self.ledger.all_commands(candidate.record).await?;
        if sent.iter().any(|sent| sent.version > version) {
            return Ok(Ended::LeftOut("a command is on its way, whose outcome comes by itself".to_owned()));
        }
        let status = self.ledger.newest_status(candidate.record).await?;
        let settled =
            status.and_then(|status| Some(status.decode::<schemas::StatusWritten>().ok()?.1.settled));
        let processed = RecordProcessed { shown: unseen(chrono::Utc::now(), settled), ..processed };
        self.publish(&Again::Processed(envelope, processed), version.raw_sequence).await
    }

    async fn publish(&self, again: &Again, raw_sequence: u64) -> Result<Ended, Failure> {
        Ok(match send_again(&self.ledger.broker, self.rules, again, raw_sequence).await? {
            Sent::Stored { .. } => Ended::Published,
            Sent::Superseded { newer } => Ended::LeftOut(format!(
                "a newer version came meanwhile (raw sequence {newer}), and goes by itself"
            )),
        })
    }

    /// Publishes what the mapper would send, as a plain message under the sandbox's subject.
    async fn copy(&self, step: &Step, prefix: &str) -> Result<Ended, Failure> {
        let raw_sequence = step.candidate.raw_sequence;
        let Some((envelope, changed)) = raw(self.ledger, raw_sequence).await? else {
            return Ok(Ended::LeftOut("its raw record is no longer kept".to_owned()));
        };
        let message =
            mapper::outgoing(self.rules, envelope, &changed, raw_sequence).map_err(Failure::trouble)?;
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in &message.encoded.headers {
            headers.insert(name.as_str(), value.as_str());
        }
        let subject = sandboxed(prefix, &message.subject);
        let client = self.ledger.broker.client();
        let sent = client.publish_with_headers(subject, headers, message.encoded.payload.into()).await;
        sent.map_err(Failure::trouble)?;
        Ok(Ended::Published)
    }
}

const NO_OUTCOME: &str = "it has no outcome";

/// Puts a command's subject under another prefix: `sandbox.crm.cmd.01.contact.39910`.
fn sandboxed(prefix: &str, subject: &str) -> String {
    let rest: Vec<&str> = subject.split('.').skip(2).collect();
    format!("{prefix}.{}", rest.join("."))
}

/// Reads the prefix of a sandbox, which must not be one of the pipeline's own.
pub fn sandbox(text: &str) -> Result<String, String> {
    let is_token = |token: &str| {
        !token.is_empty() && token.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
    };
    let first = text.split('.').next().unwrap_or_default();
    let is_ours = ["b24", "crm", "dlq"].contains(&first.to_ascii_lowercase().as_str());
    match text.split('.').all(is_token) && !is_ours {
        true => Ok(text.to_owned()),
        false => Err("a subject outside the pipeline, without wildcards: sandbox.crm.cmd".to_owned()),
    }
}

fn progress_bar(records: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(records as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("replay [{bar:40}] {pos:>7} of {len:7} {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_never_a_stream_of_ours() {
        assert_eq!(sandbox("sandbox.crm.cmd").as_deref(), Ok("sandbox.crm.cmd"));
        for wrong in ["crm.cmd", "b24.raw", "CRM.cmd", "dlq", "$JS.API", "a.>", "a.*", "", "a..b", "a b"] {
            assert!(sandbox(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(
            sandboxed("sandbox.crm.cmd", "crm.cmd.01.contact.39910"),
            "sandbox.crm.cmd.01.contact.39910"
        );
    }
}
