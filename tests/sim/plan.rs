//! What a seed draws before anything happens: the settings of the nodes, the work of the clients, and which
//! faults come when, how hard. Each fault is an item of a list, so that a failing seed can be run without some.

use std::ops::RangeInclusive;
use std::time::Duration;

use ferrolog::env::Random;

use super::disk::Crash;
use super::network::Weather;

/// A number of a range, ends included.
pub fn draw(random: &Random, range: RangeInclusive<u64>) -> u64 {
    let (from, to) = range.into_inner();
    from + random.next_u64() % (to - from + 1)
}

/// One of these.
pub fn pick<T: Clone>(random: &Random, of: &[T]) -> T {
    of[draw(random, 0..=of.len() as u64 - 1) as usize].clone()
}

/// One time in so many.
pub fn one_in(random: &Random, times: u64) -> bool {
    draw(random, 1..=times) == 1
}

/// The nodes' settings.
#[derive(Debug, Clone)]
pub struct Settings {
    pub nodes: usize,
    pub segment_bytes_max: u64,
    pub record_bytes_max: u64,
    pub heartbeat_ms: u64,
    pub disk_late_us: (u64, u64),
    pub tail_cache_bytes_max: usize,
    pub files_max: usize,
    pub scrub_bytes_per_second: u64,
    pub rewrite_dead_percent: u64,
}

impl Settings {
    fn drawn(random: &Random) -> Self {
        Self {
            nodes: pick(random, &[1, 2, 3, 3, 3, 3, 3, 3, 4, 5, 7]),
            segment_bytes_max: pick(random, &[64 << 10, 64 << 10, 128 << 10, 1 << 20]),
            record_bytes_max: pick(random, &[4096, 8192, 100_000]),
            heartbeat_ms: pick(random, &[50, 100, 200]),
            disk_late_us: pick(random, &[(0, 100), (100, 2000), (1000, 20_000)]),
            tail_cache_bytes_max: pick(random, &[0, 16 << 10, 1 << 20]),
            files_max: pick(random, &[16, 256]),
            scrub_bytes_per_second: pick(random, &[0, 64 << 10, 8 << 20]),
            rewrite_dead_percent: pick(random, &[1, 1, 10, 50]),
        }
    }
}

/// What clients do.
#[derive(Debug, Clone)]
pub struct Work {
    pub producers: u64,
    pub appenders: u64,
    pub senders: u64,
    pub readers: u64,
    pub subscribers: u64,
    pub fencers: u64,
    pub cursors: u64,
    pub trims: bool,
    pub closes_sessions: bool,
    /// Beside the default log, as long as the run lasts.
    pub logs: u64,
    /// Clients that append to several logs in one call.
    pub together: u64,
    /// Clients that read several logs in one stream.
    pub selections: u64,
    /// Clients that make logs and delete them.
    pub passing: u64,
    /// Clients that keep a table in a log which is compacted by key.
    pub tables: u64,
    /// Between two calls of a client.
    pub think_ms: (u64, u64),
    pub value_bytes_max: u64,
}

impl Work {
    fn drawn(random: &Random) -> Self {
        Self {
            producers: draw(random, 1..=2),
            appenders: draw(random, 0..=2),
            senders: draw(random, 0..=2),
            readers: draw(random, 1..=3),
            subscribers: draw(random, 0..=1),
            fencers: pick(random, &[0, 0, 2]),
            cursors: pick(random, &[0, 1]),
            trims: one_in(random, 2),
            closes_sessions: one_in(random, 4),
            logs: pick(random, &[0, 1, 2, 3]),
            together: draw(random, 0..=1),
            selections: draw(random, 0..=2),
            passing: pick(random, &[0, 0, 1, 2]),
            tables: pick(random, &[0, 1, 2]),
            think_ms: pick(random, &[(10, 80), (20, 200), (50, 400)]),
            value_bytes_max: pick(random, &[50, 500, 3000]),
        }
    }
}

/// Whom a fault strikes, as things stand when it comes.
#[derive(Debug, Clone, Copy)]
pub enum Who {
    Leader,
    /// Of the nodes that do not lead, this one, counted round.
    Other(u64),
    /// Whom the last fault struck.
    Same,
    All,
}

/// When a crash comes, counted in operations on a disk. Of several nodes the first that gets there takes the
/// others along: one supply of power.
#[derive(Debug, Clone, Copy)]
pub enum When {
    Now,
    /// In the middle of an operation, so many later.
    Operations(u64),
    /// So many after the next time that a file gets another name.
    AfterRename(u64),
}

#[derive(Debug, Clone)]
pub enum Fault {
    Crash {
        who: Who,
        crash: Crash,
        when: When,
        down: Duration,
    },
    Stop {
        who: Who,
        down: Duration,
    },
    Isolate {
        who: Who,
        span: Duration,
    },
    /// Cut off from the other nodes; clients reach it.
    Alone {
        who: Who,
        span: Duration,
    },
    Cut {
        from: Who,
        to: Who,
        span: Duration,
    },
    Freeze {
        who: Who,
        span: Duration,
    },
    Reset {
        who: Who,
    },
    HalfClose {
        from: Who,
        to: Who,
    },
    Refuse {
        who: Who,
        span: Duration,
    },
    Weather {
        weather: Weather,
        span: Duration,
    },
    Way {
        from: Who,
        to: Who,
        weather: Weather,
        span: Duration,
    },
    DiskLate {
        who: Who,
        late_us: u64,
        span: Duration,
    },
    DiskFails {
        who: Who,
        of_10000: u64,
        span: Duration,
    },
    /// No sync comes to an end, and nothing else fails.
    SyncsFail {
        who: Who,
        span: Duration,
    },
    DiskFull {
        who: Who,
        span: Duration,
    },
    /// So many files may be opened beside those that are.
    FewFiles {
        who: Who,
        left: usize,
        span: Duration,
    },
    /// A read shows a sector as it was before it was written.
    StaleRead {
        at: u64,
    },
    Rot {
        at: u64,
    },
    Clock {
        who: Who,
        by_ms: i64,
    },
    Drift {
        who: Who,
        ms_in_second: i64,
        span: Duration,
    },
    Move {
        who: Who,
    },
    Replace {
        who: Who,
    },
    Join,
    Leave {
        who: Who,
    },
    Transfer {
        to: Who,
    },
}

/// All that a seed decides beforehand.
#[derive(Debug, Clone)]
pub struct Plan {
    pub settings: Settings,
    pub work: Work,
    pub lasts: Duration,
    /// When each fault comes.
    pub faults: Vec<(Duration, Fault)>,
}

/// Faults of a seed at most: those that are drawn, each with one that may follow it, the two of a pair,
/// and a leader that is cut off.
pub const FAULTS_MAX: usize = 2 * DRAWN_MAX + 3;
const DRAWN_MAX: usize = 10;
/// Kinds of faults, each on or off in a seed.
const KINDS: u64 = 15;
/// One fault in so many is followed by another one of the same node.
const FOLLOWED: u64 = 4;
/// How soon.
const FOLLOWS_MS_MAX: u64 = 1500;
/// One seed in so many has two faults of all nodes that belong together.
const PAIRED: u64 = 8;
/// One seed in so many has a leader that clients still read when the others have elected another one.
const DEPOSED: u64 = 4;

impl Plan {
    pub fn drawn(random: &Random) -> Self {
        let settings = Settings::drawn(random);
        let work = Work::drawn(random);
        let lasts = Duration::from_millis(draw(random, 2_000..=8_000));
        let mut kinds: Vec<u64> = (0..KINDS).filter(|_| one_in(random, 3)).collect();
        if kinds.is_empty() {
            kinds.push(draw(random, 0..=KINDS - 1));
        }
        let mut faults = Vec::new();
        let sometime = || Duration::from_millis(draw(random, 0..=lasts.as_millis() as u64));
        for _ in 0..draw(random, 0..=DRAWN_MAX as u64) {
            let (at, kind) = (sometime(), pick(random, &kinds));
            faults.push((at, fault(random, kind)));
            if one_in(random, FOLLOWED) {
                let soon = Duration::from_millis(draw(random, 0..=FOLLOWS_MS_MAX));
                faults.push((at + soon, following(random)));
            }
        }
        if one_in(random, PAIRED) {
            let at = sometime();
            let soon = Duration::from_millis(draw(random, 300..=2 * FOLLOWS_MS_MAX));
            let [one, other] = pair(random);
            faults.push((at, one));
            faults.push((at + soon, other));
        }
        if one_in(random, DEPOSED) {
            let span = Duration::from_millis(draw(random, 800..=3000));
            faults.push((
                sometime(),
                Fault::Alone {
                    who: Who::Leader,
                    span,
                },
            ));
        }
        faults.sort_by_key(|(at, _)| *at);
        Self {
            settings,
            work,
            lasts,
            faults,
        }
    }
}

fn who(random: &Random) -> Who {
    match draw(random, 0..=9) {
        0..=3 => Who::Leader,
        other => Who::Other(other),
    }
}

fn span(random: &Random) -> Duration {
    let most = pick(random, &[100, 600, 2500, 6000]);
    Duration::from_millis(draw(random, 10..=most))
}

fn weather(random: &Random) -> Weather {
    Weather {
        late_us: pick(
            random,
            &[(0, 0), (1000, 10_000), (10_000, 100_000), (100, 400_000)],
        ),
        lost_of_1000: pick(random, &[0, 0, 10, 100, 300]),
        bytes_per_second: pick(random, &[1 << 30, 1 << 20, 64 << 10]),
    }
}

/// What comes on top of another fault, while that one lasts or right after it: of all that is not synced then,
/// nothing may be needed.
fn following(random: &Random) -> Fault {
    let who = Who::Same;
    let crash = pick(random, &[Crash::Process, Crash::Power, Crash::PowerAtWorst]);
    match draw(random, 0..=3) {
        0 => Fault::Stop {
            who,
            down: Duration::from_millis(draw(random, 0..=300)),
        },
        1 => Fault::Alone {
            who,
            span: span(random),
        },
        _ => Fault::Crash {
            who,
            crash,
            when: when(random),
            down: Duration::from_millis(draw(random, 0..=600)),
        },
    }
}

/// Two faults, of all nodes or of the leader, the second of which takes what the first one left unsynced.
fn pair(random: &Random) -> [Fault; 2] {
    let (mut who, mut same) = (Who::All, Who::All);
    let down = Duration::from_millis(draw(random, 0..=300));
    let one = match draw(random, 0..=2) {
        0 => Fault::Crash {
            who,
            crash: Crash::Process,
            when: when(random),
            down,
        },
        1 => Fault::SyncsFail {
            who,
            span: Duration::from_millis(draw(random, 10..=300)),
        },
        _ => {
            let late_us = draw(random, 10_000..=300_000);
            // A leader whose disk alone is late applies what it has not synced: the others commit it.
            if late_us.is_multiple_of(2) {
                (who, same) = (Who::Leader, Who::Same);
            }
            let span = span(random);
            Fault::DiskLate { who, late_us, span }
        }
    };
    let other = Fault::Crash {
        who: same,
        crash: Crash::PowerAtWorst,
        when: when(random),
        down,
    };
    [one, other]
}

fn when(random: &Random) -> When {
    let operations = draw(random, 0..=60);
    match draw(random, 0..=3) {
        0 => When::Operations(operations),
        1 => When::AfterRename(draw(random, 0..=20)),
        _ => When::Now,
    }
}

fn fault(random: &Random, kind: u64) -> Fault {
    let (who, other, span) = (who(random), who(random), span(random));
    match kind {
        0 => {
            let crash = pick(random, &[Crash::Process, Crash::Power, Crash::PowerAtWorst]);
            let all = one_in(random, 4);
            Fault::Crash {
                who: if all { Who::All } else { who },
                crash,
                when: when(random),
                down: span,
            }
        }
        1 => Fault::Stop { who, down: span },
        2 => match draw(random, 0..=3) {
            0 => Fault::Isolate { who, span },
            3 => Fault::Alone { who, span },
            1 => Fault::Cut {
                from: who,
                to: other,
                span,
            },
            _ => Fault::Freeze { who, span },
        },
        3 => match draw(random, 0..=2) {
            0 => Fault::Reset { who },
            1 => Fault::HalfClose {
                from: who,
                to: other,
            },
            _ => Fault::Refuse { who, span },
        },
        4 => match one_in(random, 2) {
            true => Fault::Weather {
                weather: weather(random),
                span,
            },
            false => Fault::Way {
                from: who,
                to: other,
                weather: weather(random),
                span,
            },
        },
        5 => Fault::DiskLate {
            who,
            late_us: draw(random, 10_000..=500_000),
            span,
        },
        6 => Fault::DiskFails {
            who,
            of_10000: pick(random, &[10, 100, 1000]),
            span,
        },
        7 => Fault::DiskFull {
            who: if one_in(random, 4) { Who::All } else { who },
            span,
        },
        8 => Fault::Rot {
            at: random.next_u64(),
        },
        9 => match one_in(random, 2) {
            true => Fault::Drift {
                who,
                ms_in_second: draw(random, 0..=200) as i64 - 100,
                span,
            },
            false => {
                let by_ms = pick(random, &[-86_400_000, -5000, -700, 700, 5000, 86_400_000]);
                Fault::Clock { who, by_ms }
            }
        },
        12 => Fault::SyncsFail {
            who: if one_in(random, 3) { Who::All } else { who },
            span: span.min(Duration::from_millis(600)),
        },
        13 => Fault::FewFiles {
            who,
            left: draw(random, 0..=4) as usize,
            span,
        },
        14 => Fault::StaleRead {
            at: random.next_u64(),
        },
        10 => match draw(random, 0..=3) {
            0 => Fault::Move { who },
            1 => Fault::Replace { who },
            2 => Fault::Join,
            _ => Fault::Leave { who },
        },
        _ => Fault::Transfer { to: other },
    }
}
