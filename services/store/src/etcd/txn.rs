//! Transactions: etcd compares and changes; which comparison failed is read off in the same transaction.

use etcd_client::{
    Compare as Holds, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};

use super::errors::is_lease_gone;
use super::{Etcd, Names, number, revision, within};
use crate::{Compare, Error, LeaseId, Op, Result, Revision, TxnOutcome};

pub(super) async fn apply(etcd: &Etcd, compares: Vec<Compare>, ops: Vec<Op>) -> Result<TxnOutcome> {
    let names = &etcd.names;
    let leases: Vec<LeaseId> = ops.iter().filter_map(lease_of).collect();
    let txn = Txn::new()
        .when(compares.iter().map(|c| holds(names, c)).collect::<Vec<_>>())
        .and_then(
            ops.into_iter()
                .map(|op| done(names, op))
                .collect::<Vec<_>>(),
        )
        .or_else(compares.iter().map(|c| asked(names, c)).collect::<Vec<_>>());
    let mut kv = etcd.kv.clone();
    match within("writing", kv.txn(txn)).await {
        Ok(answer) => outcome(&compares, &answer),
        Err(error) if is_lease_gone(&error) => Err(Error::LeaseExpired(ended(etcd, leases).await?)),
        Err(error) => Err(error),
    }
}

fn lease_of(op: &Op) -> Option<LeaseId> {
    match op {
        Op::Put { lease, .. } => *lease,
        Op::Delete { .. } => None,
    }
}

fn holds(names: &Names, compare: &Compare) -> Holds {
    match compare {
        Compare::ModRevision { key, revision } => {
            Holds::mod_revision(names.key(key), CompareOp::Equal, number(*revision))
        }
        Compare::CreateRevision { key, revision } => {
            Holds::create_revision(names.key(key), CompareOp::Equal, number(*revision))
        }
        Compare::LeaseAlive { lease } => {
            Holds::create_revision(names.lease(*lease), CompareOp::Greater, 0)
        }
    }
}

fn done(names: &Names, op: Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(names.key(&key), value, options)
        }
        Op::Delete { key } => TxnOp::delete(names.key(&key), None),
    }
}

/// Reads what a comparison is about.
fn asked(names: &Names, compare: &Compare) -> TxnOp {
    let key = match compare {
        Compare::ModRevision { key, .. } | Compare::CreateRevision { key, .. } => names.key(key),
        Compare::LeaseAlive { lease } => names.lease(*lease),
    };
    TxnOp::get(key, Some(GetOptions::new().with_keys_only()))
}

fn outcome(compares: &[Compare], answer: &TxnResponse) -> Result<TxnOutcome> {
    let at: Revision = answer.header().map_or(0, |h| revision(h.revision()));
    let responses = answer.op_responses();
    if answer.succeeded() {
        let deleted: i64 = responses
            .iter()
            .map(|response| match response {
                TxnOpResponse::Delete(delete) => delete.deleted(),
                _ => 0,
            })
            .sum();
        return Ok(TxnOutcome::Committed {
            revision: at,
            deleted: usize::try_from(deleted).unwrap_or(0),
        });
    }
    let failed = compares.iter().zip(&responses).position(|(compare, read)| {
        let TxnOpResponse::Get(read) = read else {
            return false;
        };
        !is_so(compare, read.kvs().first())
    });
    match failed {
        Some(compare) => Ok(TxnOutcome::Conflict {
            compare,
            revision: at,
        }),
        None => Err(Error::Invalid {
            what: "transaction",
            detail: "etcd refused it, yet every comparison holds".to_owned(),
        }),
    }
}

/// Whether a comparison holds for what was found at its key.
fn is_so(compare: &Compare, found: Option<&KeyValue>) -> bool {
    match compare {
        Compare::ModRevision { revision: seen, .. } => {
            found.map_or(0, |kv| revision(kv.mod_revision())) == *seen
        }
        Compare::CreateRevision { revision: seen, .. } => {
            found.map_or(0, |kv| revision(kv.create_revision())) == *seen
        }
        Compare::LeaseAlive { .. } => found.is_some(),
    }
}

/// The first of these leases that has ended.
async fn ended(etcd: &Etcd, leases: Vec<LeaseId>) -> Result<LeaseId> {
    let mut client = etcd.lease.clone();
    let mut last = None;
    for lease in leases {
        let left = within("asking for a lease", client.time_to_live(lease.0, None)).await?;
        if left.ttl() <= 0 {
            return Ok(lease);
        }
        last = Some(lease);
    }
    // It was gone when it mattered, and names are not used again.
    last.ok_or(Error::Closed)
}
