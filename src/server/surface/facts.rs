//! What a node tells an operator of what it stands on: its certificate, its clients' budget, its descriptors.

use crate::metrics::process;
use crate::net::Security;
use crate::net::budget::Budget;
use crate::net::tls::Tls;
use crate::proto::v1::{BudgetUse, GetStatusResponse};

/// What these are read from; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    tls: Option<Tls>,
    budget: Option<Budget>,
}

impl Facts {
    /// Of a node that proves itself so, and lets clients hold so much.
    pub fn new(security: &Security, budget: &Budget) -> Self {
        Self {
            tls: match security {
                Security::Mutual(tls) => Some(tls.clone()),
                Security::Insecure => None,
            },
            budget: Some(budget.clone()),
        }
    }

    /// Fills them in.
    pub fn tell(&self, status: &mut GetStatusResponse) {
        if let Some(tls) = &self.tls {
            status.certificate_ends_ms = tls.ends_s().map(|ends| ends.saturating_mul(1000));
            status.certificate_hosts = tls.hosts();
        }
        let uses = self.budget.iter().flat_map(Budget::uses);
        status.budgets = uses
            .map(|(account, used)| BudgetUse {
                account: account.to_owned(),
                used_bytes: used.held as u64,
                limit_bytes: used.limit as u64,
                short_ms: used
                    .short
                    .map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
            })
            .collect();
        status.open_descriptors = process::open_descriptors();
        status.descriptors_max = process::descriptors_max();
    }
}
