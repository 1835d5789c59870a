//! Whole runs on real processes: a storm of every kind of fault, and losses that must be reported as such.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use slipring_harness::{Fault, KINDS, Options, Plan, Profile, Report, build, namespaces_missing, run};
use slipring_sim::check::check;
use slipring_sim::{Action, BucketKind, Operation, Outcome, Violation};

/// Runs are timed, so they come one after another.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
static BINARY: LazyLock<PathBuf> = LazyLock::new(|| build(Profile::Debug).expect("the server builds"));

fn report(seed: u64, seconds: u64, plan: Option<Plan>, is_netns: bool) -> Report {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("processes");
    let storm = Duration::from_secs(seconds);
    let options = Options { seed, nodes: 3, storm, plan, is_netns, binary: BINARY.clone(), folder };
    let report = run(&options, &|_, _| {}).expect("the harness works");
    println!("{report}");
    report
}

#[test]
fn a_storm_of_every_kind_of_fault_breaks_no_promise_and_losses_in_it_would_be_seen() {
    let report = report(1, 20, None, false);
    assert_eq!(report.verdict, Ok(()), "{report}");
    for kind in KINDS {
        assert!(report.finding.happened.contains_key(kind), "no {kind} happened: {report}");
    }
    let traffic = report.traffic;
    let effects = [traffic.held, traffic.dropped, traffic.delayed, traffic.throttled, traffic.broken];
    assert!(effects.iter().all(|effect| *effect > 0), "a fault had no effect: {report}");
    assert_eq!(traffic.strangers, 0, "somebody came by another way: {report}");
    let acked = report.operations.iter().filter(|operation| operation.acked_at().is_some()).count();
    assert!(acked > 500 && report.finding.records > 100, "too little happened: {report}");
    losses_are_seen(&report);
}

/// Takes something out of a real history and expects the rules to miss it.
fn losses_are_seen(report: &Report) {
    let broken = |operations: &[Operation]| check(operations, &report.terms()).expect_err("a loss").checker;
    let (at, _) = last_read_of_an_acked_write(&report.operations).expect("a register that was written");
    let mut forgotten = report.operations.clone();
    ends(&mut forgotten, at, Outcome::Found(None));
    assert_eq!(broken(&forgotten), "no_lost_write");
    let mut unwritten = report.operations.clone();
    let (_, value) = last_read_of_an_acked_write(&report.operations).expect("as above");
    unwritten.retain(|operation| operation.action != Action::Set { value: value.clone(), expires_at: None });
    assert_eq!(broken(&unwritten), "no_phantom");
    let (at, sum) = last_total(&report.operations).expect("a counter that was added to");
    let mut uncounted = report.operations.clone();
    ends(&mut uncounted, at, Outcome::Counted(sum - 1));
    assert_eq!(broken(&uncounted), "counters");
}

fn ends(operations: &mut [Operation], at: usize, with: Outcome) {
    let end = operations.get_mut(at).and_then(|operation| operation.end.as_mut());
    end.expect("it was answered").1 = with;
}

fn is_durable(operation: &&Operation) -> bool {
    operation.bucket != BucketKind::Cache
}

/// A last read that saw a plain write which no deletion and no mortal value can explain away, and what it saw.
fn last_read_of_an_acked_write(operations: &[Operation]) -> Option<(usize, String)> {
    operations.iter().enumerate().filter(|(_, read)| read.is_final && is_durable(read)).find_map(
        |(at, read)| {
            let Some((Some(value), _)) = read.seen() else { return None };
            let same_key =
                || operations.iter().filter(|other| (other.bucket, &other.key) == (read.bucket, &read.key));
            let is_plain = same_key().all(|other| {
                matches!(other.action, Action::Set { expires_at: None, .. } | Action::Get)
                    || !other.may_have_written()
            });
            let is_acked = same_key().any(|other| {
                matches!(&other.action, Action::Set { value: wrote, .. } if wrote == value)
                    && other.acked_at().is_some()
            });
            (is_plain && is_acked).then(|| (at, value.to_owned()))
        },
    )
}

/// A last read of a counter, and what was acknowledged of it.
fn last_total(operations: &[Operation]) -> Option<(usize, i64)> {
    operations.iter().enumerate().filter(|(_, read)| read.is_final && is_durable(read)).find_map(
        |(at, read)| {
            let Some((_, Outcome::Counted(_))) = read.end else { return None };
            let acked = operations.iter().filter(|add| (add.bucket, &add.key) == (read.bucket, &read.key));
            let deltas = acked.filter(|add| add.acked_at().is_some()).map(|add| match add.action {
                Action::Add(delta) => delta,
                _ => 0,
            });
            let sum: i64 = deltas.sum();
            (sum > 0).then_some((at, sum))
        },
    )
}

#[test]
fn what_is_only_in_memory_is_reported_lost_when_all_processes_die() {
    let plan = Plan { faults: vec![(4_000, Fault::KillAll { down_ms: 200 })] };
    let report = report(2, 6, Some(plan), false);
    assert_eq!(report.verdict, Ok(()), "a cache promises nothing, the others keep theirs: {report}");
    let as_if_durable = |bucket: BucketKind| -> Result<(), Violation> {
        let mut operations = report.operations.clone();
        operations.retain(|operation| operation.bucket == bucket);
        operations.iter_mut().for_each(|operation| operation.bucket = BucketKind::Fsync);
        check(&operations, &report.terms()).map(drop)
    };
    assert_eq!(as_if_durable(BucketKind::Buffered), Ok(()), "a killed process loses no page of the system");
    let loss = as_if_durable(BucketKind::Cache).expect_err("what was in memory is gone");
    assert!(["no_lost_write", "counters"].contains(&loss.checker), "{loss}");
}

#[test]
fn nodes_in_namespaces_of_their_own_keep_every_promise() {
    if let Some(reason) = namespaces_missing() {
        println!("not run: nodes cannot have network namespaces here: {reason}");
        return;
    }
    let faults = [
        (500, Fault::Isolate { node: 0, for_ms: 1_500 }),
        (2_500, Fault::Drop { from: 1, to: 2, for_ms: 1_000 }),
        (4_000, Fault::Kill { node: 2, down_ms: 300 }),
    ];
    let report = report(3, 6, Some(Plan { faults: faults.to_vec() }), true);
    assert_eq!(report.verdict, Ok(()), "{report}");
    assert_eq!(report.finding.happened.len(), 3, "{report}");
    assert_eq!(report.traffic.strangers, 0, "{report}");
}
