//! Signals that mean "stop".

use runtime::CancellationToken;
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

/// Tells work of many steps whether to end after the present one.
pub struct Stop(CancellationToken);

impl Stop {
    /// Takes the signals over from now on.
    pub fn listen() -> Result<Stop, Failure> {
        let (mut signals, token) = (Signals::listen()?, CancellationToken::new());
        let stop = Stop(token.clone());
        tokio::spawn(async move {
            signals.next().await;
            token.cancel();
        });
        Ok(stop)
    }

    /// Tells whether a signal came.
    pub fn is_asked(&self) -> bool {
        self.0.is_cancelled()
    }
}
