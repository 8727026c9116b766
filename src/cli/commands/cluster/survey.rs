//! What every node of a cluster says of itself, asked at the same time: no answer is an answer, too.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep_until, timeout};

use crate::cli::output::counted;
use crate::client::{Client, ClientError};
use crate::proto::v1::{GetStatusResponse, Node, NodeRole};

/// How long a node may take to answer. Whoever asks what is wrong does not wait for longer.
const WAIT: Duration = Duration::from_millis(1500);

/// The leader calls the others many times a second: one that it heard so lately is alive.
const ALIVE_MAX: Duration = Duration::from_millis(500);

/// Between two questions to the leader while members do not answer.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// The answer of one address.
pub struct Asked {
    pub addr: String,
    pub answer: Result<GetStatusResponse, Silence>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Silence {
    /// None came within [`WAIT`].
    Late,
    Failed(Box<ClientError>),
}

/// The answers of all nodes that are known.
pub struct Survey {
    pub asked: Vec<Asked>,
}

/// A member, as others know it and as it says itself.
pub struct Seen<'a> {
    pub node: &'a Node,
    /// What it says, if it answers.
    pub own: Option<&'a GetStatusResponse>,
    /// Why it does not.
    pub silence: Option<&'a Silence>,
}

/// How many voters answer, and how many must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    pub up: usize,
    pub voters: usize,
    pub needed: usize,
    /// Whether one leads that a majority has confirmed.
    pub is_led: bool,
}

impl Quorum {
    /// Whether records can be committed.
    pub fn is_there(&self) -> bool {
        self.up >= self.needed && self.is_led
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (up, needed) = (self.up, self.needed);
        let voters = counted(self.voters as u64, "voter", "voters");
        match (up >= needed, self.is_led) {
            (true, true) => write!(f, "{up} of {voters} up, quorum: yes"),
            (true, false) => write!(f, "{up} of {voters} up, and none of them leads"),
            (false, _) => write!(f, "{up} of {voters} up, quorum: no, {needed} are needed"),
        }
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => write!(f, "no answer within {:.1} s", WAIT.as_secs_f64()),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl Survey {
    /// Asks these servers, and the members that they name.
    ///
    /// # Errors
    ///
    /// The first server's, if none of them answers.
    pub async fn take(client: &Client, servers: &[String]) -> Result<Self, ClientError> {
        let begun = Instant::now();
        let mut survey = Self {
            asked: ask_all(client, servers.iter().cloned()).await,
        };
        let known: BTreeSet<_> = servers.iter().cloned().collect();
        let members = survey.answers().flat_map(|answer| &answer.nodes);
        let addrs: BTreeSet<_> = members.map(|node| node.addr.clone()).collect();
        let others = addrs.difference(&known).cloned();
        survey.asked.extend(ask_all(client, others).await);
        survey.ask_leader_again(client, begun).await;
        if survey.answers().next().is_none() {
            let failed = survey
                .asked
                .into_iter()
                .find_map(|asked| match asked.answer {
                    Err(Silence::Failed(error)) => Some(*error),
                    _ => None,
                });
            return Err(failed.unwrap_or_else(|| ClientError::Unreachable {
                servers: servers.join(", "),
                seconds: WAIT.as_secs().max(1),
                cause: "no answer came".to_owned(),
            }));
        }
        Ok(survey)
    }

    /// What the leader says meanwhile, if too few voters answer: until it would know that it leads nobody. If others do not
    /// answer: until it has not heard them for a while. Members that have moved are asked where they are.
    async fn ask_leader_again(&mut self, client: &Client, begun: Instant) {
        let Some(leader) = self.leader().map(|leader| leader.node_id) else {
            return;
        };
        let until = begun + WAIT;
        loop {
            let quorum = self.quorum();
            let is_known =
                quorum.up >= quorum.needed && !self.members().any(|seen| seen.may_live());
            if is_known || Instant::now() >= until {
                return;
            }
            sleep_until(until.min(Instant::now() + ASK_AGAIN)).await;
            let told = |asked: &&mut Asked| {
                let answer = asked.answer.as_ref();
                answer.is_ok_and(|answer| answer.node_id == leader)
            };
            for asked in self.asked.iter_mut().filter(told) {
                *asked = ask(client, asked.addr.clone()).await;
            }
            let known = self.asked.iter().map(|asked| asked.addr.clone());
            let known: BTreeSet<_> = known.collect();
            let members = self.answers().flat_map(|answer| &answer.nodes);
            let addrs: BTreeSet<_> = members.map(|node| node.addr.clone()).collect();
            let moved = addrs.difference(&known).cloned();
            self.asked.extend(ask_all(client, moved).await);
            if self.leader().is_none() {
                return;
            }
        }
    }

    pub fn answers(&self) -> impl Iterator<Item = &GetStatusResponse> {
        self.asked
            .iter()
            .filter_map(|asked| asked.answer.as_ref().ok())
    }

    /// The node that leads, as it says itself, and a majority with it.
    pub fn leader(&self) -> Option<&GetStatusResponse> {
        self.answers()
            .filter(|answer| answer.leads)
            .max_by_key(|answer| answer.term)
    }

    /// The answer of the node that knows most of the cluster.
    pub fn view(&self) -> &GetStatusResponse {
        let furthest = |answer: &&GetStatusResponse| (answer.term, answer.committed_index);
        let best = self
            .leader()
            .or_else(|| self.answers().max_by_key(furthest));
        best.expect("a survey has an answer")
    }

    /// The members, as the view has them, by name: their ids follow the order in which they joined, which is chance.
    pub fn members(&self) -> impl Iterator<Item = Seen<'_>> {
        let mut nodes: Vec<_> = self.view().nodes.iter().collect();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        nodes.into_iter().map(|node| {
            let own = self.answers().find(|answer| answer.node_id == node.id);
            let at = self.asked.iter().find(|asked| asked.addr == node.addr);
            Seen {
                node,
                own,
                silence: at
                    .filter(|_| own.is_none())
                    .and_then(|at| at.answer.as_ref().err()),
            }
        })
    }

    pub fn quorum(&self) -> Quorum {
        let voters: Vec<_> = self.members().filter(Seen::is_voter).collect();
        Quorum {
            up: voters.iter().filter(|seen| seen.own.is_some()).count(),
            voters: voters.len(),
            needed: voters.len() / 2 + 1,
            is_led: self.leader().is_some(),
        }
    }

    /// How many entries a member lacks of what is committed; of one that does not answer, as the leader knows.
    pub fn lag(&self, seen: &Seen<'_>) -> Option<u64> {
        let end = self.view().committed_index?;
        let reached = match seen.own {
            Some(own) => own.applied_index,
            None => seen.node.matched_index,
        };
        Some(end.saturating_sub(reached?))
    }
}

impl Seen<'_> {
    pub fn is_voter(&self) -> bool {
        self.node.role() == NodeRole::Voter
    }

    /// Whether it does not answer, and the leader heard it lately.
    fn may_live(&self) -> bool {
        self.own.is_none() && self.is_heard()
    }

    /// Whether the leader heard it lately.
    pub fn is_heard(&self) -> bool {
        let heard = self.node.heard_ms.map(Duration::from_millis);
        heard.is_some_and(|ago| ago < ALIVE_MAX)
    }

    /// Whether it leads, and a majority says so.
    pub fn leads(&self) -> bool {
        self.own.is_some_and(|own| own.leads)
    }
}

async fn ask_all(client: &Client, addrs: impl IntoIterator<Item = String>) -> Vec<Asked> {
    join_all(addrs.into_iter().map(|addr| ask(client, addr))).await
}

/// Asks one node.
pub async fn ask(client: &Client, addr: String) -> Asked {
    let admin = client.admin();
    let answer = match timeout(WAIT, admin.status(Some(&addr))).await {
        Ok(answer) => answer.map_err(|error| Silence::Failed(Box::new(error))),
        Err(_) => Err(Silence::Late),
    };
    Asked { addr, answer }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::proto::v1::BudgetUse;

    /// Three voters `n1` to `n3` of which these answer; the first of them leads.
    pub fn survey(up: &[u64]) -> Survey {
        let node = |id: u64| Node {
            id,
            name: format!("n{id}"),
            addr: format!("127.0.0.1:{id}"),
            role: NodeRole::Voter.into(),
            matched_index: Some(90),
            ..Node::default()
        };
        let nodes: Vec<_> = (1..=3).map(node).collect();
        let budget = |account: &str| BudgetUse {
            account: account.to_owned(),
            used_bytes: 10,
            limit_bytes: 1 << 20,
            short_ms: Some(61_000),
        };
        let answer = |id: u64| GetStatusResponse {
            cluster_id: "ab".into(),
            node_id: id,
            node_name: format!("n{id}"),
            term: 3,
            nodes: nodes.clone(),
            committed_index: Some(100),
            applied_index: Some(100 - id),
            leads: up.first() == Some(&id) && up.len() > 1,
            version: "1.0.0".into(),
            advertised_addr: format!("127.0.0.1:{id}"),
            disk_available_bytes: 1 << 30,
            disk_reserve_bytes: 1 << 28,
            clock_ms: 1_800_000_000_000,
            certificate_ends_ms: Some(1_800_000_000_000 + 31 * 86_400_000),
            certificate_hosts: vec!["127.0.0.1".into()],
            fsync_p99_us: Some(200_000),
            fsync_count: 100,
            budgets: ["messages", "windows"].map(budget).to_vec(),
            open_descriptors: Some(100),
            descriptors_max: Some(1024),
            ..GetStatusResponse::default()
        };
        let asked = (1..=3).map(|id| Asked {
            addr: format!("127.0.0.1:{id}"),
            answer: match up.contains(&id) {
                true => Ok(answer(id)),
                false => Err(Silence::Late),
            },
        });
        Survey {
            asked: asked.collect(),
        }
    }

    #[test]
    fn who_does_not_answer_is_not_up_and_does_not_lead() {
        let all = survey(&[2, 1, 3]);
        let led = Quorum {
            up: 3,
            voters: 3,
            needed: 2,
            is_led: true,
        };
        assert_eq!(all.quorum(), led);
        let leaders: Vec<_> = all
            .members()
            .filter(Seen::leads)
            .map(|seen| seen.node.id)
            .collect();
        assert_eq!(leaders, [2]);
        let two = survey(&[2, 1]);
        assert_eq!(two.quorum(), Quorum { up: 2, ..led });
        let third = two.members().nth(2).expect("three members");
        assert!(third.own.is_none() && third.silence.is_some());
        assert_eq!(two.lag(&third), Some(10));
        assert_eq!(two.lag(&two.members().next().expect("one")), Some(1));
        let alone = survey(&[3]).quorum();
        assert!(!alone.is_there() && alone.up == 1, "{alone:?}");
    }
}
