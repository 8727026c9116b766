//! Where the members are: as the membership says, or as one has shown since by calling from there.
//!
//! A node that comes back under another address cannot always have the membership say so: that
//! takes a majority, which may wait for the very nodes that moved. So a member's own word, proven
//! by its certificate, counts here until the membership says something new. Nothing of it is
//! replicated.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::MemberView;

/// As much as a host name and a port can take.
const ADDR_BYTES_MAX: usize = 255 + 6;

/// Where each member is reached; clones share it.
#[derive(Debug, Clone)]
pub struct Addresses(Arc<watch::Sender<BTreeMap<u64, KnownAddress>>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct KnownAddress {
    /// What the membership says.
    said: String,
    /// What the member says itself, since then.
    heard: Option<String>,
}

impl KnownAddress {
    fn addr(&self) -> &str {
        self.heard.as_ref().unwrap_or(&self.said)
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }
}

impl Addresses {
    /// The membership says where these are. What was heard from one counts for as long as that is
    /// no news.
    pub fn follow(&self, members: &[MemberView]) {
        let said = |member: &MemberView| (member.id, member.member.addr.clone());
        let said: BTreeMap<u64, String> = members.iter().map(said).collect();
        self.0.send_if_modified(|places| {
            let mut now = BTreeMap::new();
            for (id, said) in said {
                let before = places.get(&id).filter(|before| before.said == said);
                let heard = before.and_then(|before| before.heard.clone());
                now.insert(id, KnownAddress { said, heard });
            }
            let changed = *places != now;
            *places = now;
            changed
        });
    }

    /// A member calls, and says where it is reached.
    pub fn heard(&self, id: u64, addr: &str) {
        let is_news = |place: &KnownAddress| place.addr() != addr;
        if !self.0.borrow().get(&id).is_some_and(is_news) || addr.len() > ADDR_BYTES_MAX {
            return;
        }
        self.0.send_if_modified(|places| {
            let Some(place) = places.get_mut(&id) else {
                return false;
            };
            tracing::info!(
                node = id,
                was = place.addr(),
                is = addr,
                "a node says that it has moved"
            );
            place.heard = (place.said != addr).then(|| addr.to_owned());
            true
        });
    }

    /// Where a member is reached, if it is one.
    pub fn of(&self, id: u64) -> Option<String> {
        let places = self.0.borrow();
        places.get(&id).map(|place| place.addr().to_owned())
    }

    /// Returns once a member is reached elsewhere.
    pub fn left(&self, id: u64, addr: &str) -> impl Future<Output = ()> + Send + 'static {
        let mut places = self.0.subscribe();
        let addr = addr.to_owned();
        async move {
            let elsewhere = |places: &BTreeMap<u64, KnownAddress>| {
                places.get(&id).is_some_and(|place| place.addr() != addr)
            };
            if places.wait_for(elsewhere).await.is_err() {
                std::future::pending().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::raft::entry::types::Member;

    fn members(addr: &str) -> Vec<MemberView> {
        let member = Member {
            addr: addr.to_owned(),
            ..Member::default()
        };
        vec![MemberView {
            id: 7,
            member,
            voter: true,
        }]
    }

    #[tokio::test]
    async fn a_members_own_word_counts_until_the_membership_has_news() {
        let addresses = Addresses::default();
        addresses.heard(7, "a:2");
        assert_eq!(addresses.of(7), None, "it is no member");
        addresses.follow(&members("a:1"));
        let mut left = Box::pin(addresses.left(7, "a:1"));
        assert!((&mut left).now_or_never().is_none());
        addresses.heard(7, "a:2");
        left.await;
        assert_eq!(addresses.of(7).as_deref(), Some("a:2"));
        addresses.follow(&members("a:1"));
        assert_eq!(addresses.of(7).as_deref(), Some("a:2"), "no news");
        addresses.follow(&members("a:3"));
        assert_eq!(addresses.of(7).as_deref(), Some("a:3"));
        addresses.heard(7, &"a".repeat(ADDR_BYTES_MAX + 1));
        assert_eq!(addresses.of(7).as_deref(), Some("a:3"), "no address");
    }
}
