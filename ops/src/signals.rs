//! Signals that mean "stop".

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Failure;

/// Interrupt, terminate and hang-up.
pub struct Signals([Signal; 3]);

impl Signals {
    /// Takes them over from now on.
    pub fn listen() -> Result<Signals, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::environment(format!("No signals: {error}")));
        Ok(Signals([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
