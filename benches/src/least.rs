//! The arithmetic minimum: what no client can do in fewer requests or less time.
//!
//! A request carries at most 50 commands, a command reads at most 50 rows, and the portal's bucket takes 50 requests
//! at once and two more each second.

const COMMANDS_PER_REQUEST: u64 = 50;
const ROWS_PER_COMMAND: u64 = 50;
const BUCKET: f64 = 50.0;
const LEAK_PER_SECOND: f64 = 2.0;

/// Seconds after which the portal forgets computing time.
const WINDOW: f64 = 600.0;

/// Returns the commands of a first sync with one product row a deal, statuses included.
pub fn first_sync_commands(contacts: u64, deals: u64) -> u64 {
    list_commands(contacts) + list_commands(deals) + deals.div_ceil(ROWS_PER_COMMAND) + 1 + contacts + deals
}

/// Returns the requests that so many commands need.
pub fn requests(commands: u64) -> u64 {
    commands.div_ceil(COMMANDS_PER_REQUEST)
}

/// Returns the portal seconds that so many requests take, beginning with an empty bucket.
pub fn seconds(requests: u64) -> f64 {
    ((requests as f64 - BUCKET) / LEAK_PER_SECOND).max(0.0)
}

/// Returns the pages of a list; a full page does not tell that it is the last one.
pub fn list_commands(rows: u64) -> u64 {
    rows / ROWS_PER_COMMAND + 1
}

/// Computing time: a limit within a window, and what each update takes.
#[derive(Clone, Copy, Debug)]
pub struct Computing {
    /// Seconds allowed.
    pub limit: f64,
    /// Seconds of one update.
    pub each: f64,
}

impl Computing {
    /// Returns the seconds that updates need if the limit came back evenly.
    pub fn bound(self, updates: u64) -> f64 {
        ((updates as f64 * self.each - self.limit) * WINDOW / self.limit).max(0.0)
    }

    /// Returns the updates that fit into the limit. The portal looks at the sum before a command, so the last one may
    /// cross the line.
    pub fn per_window(self) -> u64 {
        (self.limit / self.each).ceil().max(1.0) as u64
    }

    /// Returns the seconds that updates need as the limit really comes back: all that was spent at once comes back at
    /// once, ten minutes later. What is spent last takes at least one request.
    pub fn by_windows(self, updates: u64) -> f64 {
        let per_window = self.per_window();
        let waits = updates.div_ceil(per_window).saturating_sub(1);
        let rest = (updates - waits * per_window).min(COMMANDS_PER_REQUEST);
        waits as f64 * WINDOW + rest as f64 * self.each
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_sync_of_fifteen_thousand_records_needs_311_requests() {
        let commands = first_sync_commands(5_000, 10_000);
        assert_eq!((commands, requests(commands), seconds(requests(commands))), (15_503, 311, 130.5));
    }

    #[test]
    fn ten_thousand_statuses_need_75_seconds() {
        assert_eq!((requests(10_000), seconds(200)), (200, 75.0));
        assert_eq!(seconds(10), 0.0);
    }

    #[test]
    fn computing_time_comes_back_in_windows() {
        let computing = Computing { limit: 480.0, each: 0.3 };
        assert_eq!((computing.per_window(), computing.bound(4_800)), (1_600, 1_200.0));
        assert_eq!(computing.by_windows(4_800), 1_215.0);
        assert_eq!(computing.by_windows(4_801), 1_800.3);
        assert_eq!(computing.by_windows(100), 15.0);
        assert_eq!(computing.bound(100), 0.0);
    }
}
