//! What lives of logs that forget, by the account of who filled them.

use std::collections::VecDeque;

/// After how many minutes logs forget their records, in turn; the last kind never does.
const AGES_MINUTES: [Option<u64>; 6] = [Some(1), Some(2), Some(4), Some(8), Some(16), None];

/// After how many seconds the log of this number forgets its records; `None` if it never does.
pub fn age_of(log: usize) -> Option<u64> {
    AGES_MINUTES[log % AGES_MINUTES.len()].map(|minutes| minutes * 60)
}

/// The bytes that were appended to each log, by the second.
#[derive(Debug, Default)]
pub struct Account {
    logs: Vec<VecDeque<(u64, u64)>>,
    live_bytes: u64,
    appended_bytes: u64,
}

impl Account {
    pub fn new(logs: usize) -> Self {
        Self {
            logs: vec![VecDeque::new(); logs],
            ..Self::default()
        }
    }

    /// Takes note of an append that was acknowledged in this second.
    pub fn append(&mut self, log: usize, second: u64, bytes: u64) {
        self.live_bytes += bytes;
        self.appended_bytes += bytes;
        // What never goes needs no times.
        if age_of(log).is_none() {
            return;
        }
        let of_log = &mut self.logs[log];
        match of_log.back_mut() {
            Some((last, sum)) if *last == second => *sum += bytes,
            _ => of_log.push_back((second, bytes)),
        }
    }

    /// The bytes that were appended.
    pub fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// Those that are not older than their log's age in this second.
    pub fn live_bytes(&mut self, now: u64) -> u64 {
        for (log, of_log) in self.logs.iter_mut().enumerate() {
            let Some(age) = age_of(log) else {
                continue;
            };
            while let Some((second, bytes)) = of_log.front().copied()
                && second + age < now
            {
                of_log.pop_front();
                self.live_bytes -= bytes;
            }
        }
        self.live_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_its_logs_age_is_dead() {
        let mut account = Account::new(6);
        for log in 0..6 {
            account.append(log, 10, 100);
            account.append(log, 10, 1);
            account.append(log, 40, 1000);
        }
        assert_eq!(account.live_bytes(70), 6 * 1101);
        assert_eq!(account.live_bytes(71), 6 * 1101 - 101, "a minute's log");
        assert_eq!(account.live_bytes(101), 5 * 1101);
        assert_eq!(account.live_bytes(u64::MAX), 1101, "the one that keeps all");
        assert_eq!(account.appended_bytes(), 6 * 1101);
    }
}
