//! A peer that answers late, or whose disk takes no more, is passed over as coordinator. Gossip has no part in it here: a third host tells each
//! of the two that the other one is there.

use slipring_sim::{Fault, Options, Plan, run};

const STORM_MS: u64 = 8_000;

/// Between hosts 0 and 1 everything takes longer than requests last, while their connection stands.
fn slow_pair() -> Plan {
    let slow = |from, to| (1, Fault::Slow { from, to, by_ms: 1_500, for_ms: STORM_MS });
    Plan { faults: vec![slow(0, 1), slow(1, 0)] }
}

/// One thing is wrong with the first host from the first millisecond on.
fn always(fault: Fault) -> Plan {
    Plan { faults: vec![(1, fault)] }
}

/// Outcomes that clients were not told, and operations that were answered.
fn outcomes(plan: &Plan) -> (u64, u64) {
    let (mut unknown, mut answered) = (0, 0);
    for seed in 0..12 {
        let plan = Some(plan.clone());
        let report = run(seed, &Options { hosts: Some(3), storm_ms: STORM_MS, plan, mutant: None });
        assert_eq!(report.verdict, Ok(()), "{}", report.story());
        let count = |what| report.counts.get(what).copied().unwrap_or(0);
        unknown += count("outcomes unknown");
        answered += count("operations answered");
    }
    (unknown, answered)
}

#[test]
fn requests_go_around_a_peer_that_answers_late() {
    let (unknown, answered) = outcomes(&slow_pair());
    // Without passing anybody over it is one in 29; the most that is left are keys of which there is one copy.
    assert!(unknown * 40 < answered, "{unknown} outcomes unknown, {answered} operations answered");
}

#[test]
fn a_slow_disk_slows_nobody_down() {
    let slow = always(Fault::SlowDisk { host: 0, by_ms: 1_500, for_ms: STORM_MS });
    let ((unknown, answered), (_, without)) = (outcomes(&slow), outcomes(&Plan { faults: vec![] }));
    assert!(unknown * 1_000 < answered, "{unknown} outcomes unknown, {answered} operations answered");
    assert!(answered * 10 > without * 9, "{answered} operations answered, {without} with a good disk");
}

#[test]
fn others_coordinate_where_a_disk_takes_no_more() {
    let down_ms = STORM_MS;
    for fault in [Fault::FailDisk { host: 0, down_ms }, Fault::FillDisk { host: 0, down_ms }] {
        let (unknown, answered) = outcomes(&always(fault));
        assert!(unknown * 100 < answered, "{fault:?}: {unknown} unknown, {answered} operations answered");
    }
}
