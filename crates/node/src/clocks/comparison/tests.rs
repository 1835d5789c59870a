//! Tables of clocks, and what comes of comparing them.

use super::*;

const ME: NodeId = NodeId([0; 32]);
/// What clocks that are right show at the beginning.
const WALL_MS: i64 = 1_767_225_600_000;
const HOUR_MS: i64 = 3_600_000;

fn node(number: usize) -> NodeId {
    NodeId([number as u8; 32])
}

/// A node under test and the clocks of its cluster, its own the first; `None` does not answer.
struct Cluster {
    clocks: Clocks,
    now: Moment,
    ahead_ms: Vec<Option<i64>>,
    reports: Vec<(NodeId, Option<i64>)>,
}

impl Cluster {
    fn of(ahead_ms: &[Option<i64>]) -> Self {
        let clocks = Clocks::new(ME, true);
        Self { clocks, now: Moment(7_000_000), ahead_ms: ahead_ms.to_vec(), reports: Vec::new() }
    }

    fn restarted(ahead_ms: &[Option<i64>]) -> Self {
        Self { clocks: Clocks::new(ME, false), ..Self::of(ahead_ms) }
    }

    fn wall_us(&self, number: usize) -> Option<u64> {
        let ahead_ms = self.ahead_ms.get(number).copied().flatten()?;
        Some((WALL_MS + ahead_ms) as u64 * 1_000 + self.now.0)
    }

    /// A second passes, with one round of questions that take no time; the last judgement.
    fn round(&mut self) -> Judgement {
        self.now = self.now.after(Duration::from_secs(1));
        let members = (0..self.ahead_ms.len()).map(node).collect();
        let wall_us = self.wall_us(0).expect("the own clock shows something");
        let mut judgement = self.hand(Input::Ticked { wall_us, members });
        for peer in 1..self.ahead_ms.len() {
            if let Some(wall_us) = self.wall_us(peer) {
                judgement = self.hand(Input::Told { peer: node(peer), wall_us, asked: self.now });
            }
        }
        judgement
    }

    fn rounds(&mut self, count: usize) -> Judgement {
        (1..count).for_each(|_| drop(self.round()));
        self.round()
    }

    fn hand(&mut self, input: Input) -> Judgement {
        let mut effects = Vec::new();
        self.clocks.handle(self.now, input, &mut effects);
        let mut last = None;
        for effect in effects {
            match effect {
                Effect::Judge(judgement) => last = Some(judgement),
                Effect::Report { node, by_ms } => self.reports.push((node, Some(by_ms))),
                Effect::Withdraw { node } => self.reports.push((node, None)),
                Effect::Ask { .. } => {}
            }
        }
        last.expect("each input is judged")
    }
}

/// How far the time and the time of dropping are ahead of true time, and whether the clocks agree.
fn verdict(judgement: &Judgement) -> (i64, Option<i64>, bool) {
    (
        judgement.time_us / 1_000 - WALL_MS,
        judgement.drop_us.map(|at| at / 1_000 - WALL_MS),
        judgement.is_agreed,
    )
}

#[test]
fn a_median_decides_and_a_majority_must_have_passed_a_time() {
    let (wrong, late) = (Some(2 * HOUR_MS), Some(-2 * HOUR_MS));
    let table: &[(&[Option<i64>], (i64, Option<i64>, bool))] = &[
        (&[Some(5)], (5, Some(5), true)),
        (&[wrong, Some(1), Some(3)], (3, Some(3), true)),
        (&[Some(1), wrong, Some(3)], (1, Some(3), true)),
        (&[Some(1), late, Some(3)], (1, Some(1), true)),
        (&[wrong, late, Some(3)], (3, Some(3), false)),
        (&[Some(1), None, Some(3)], (1, Some(1), true)),
        (&[wrong, None, Some(3)], (3, Some(3), false)),
        (&[wrong, None, None], (2 * HOUR_MS, None, true)),
        (&[Some(0), Some(4)], (0, Some(0), true)),
        (&[wrong, Some(4)], (4, Some(4), false)),
        (&[late, Some(4)], (-2 * HOUR_MS, Some(-2 * HOUR_MS), false)),
        (&[wrong, wrong, Some(1), Some(2), Some(3)], (3, Some(3), true)),
        (&[wrong, None, Some(1), Some(2), Some(3)], (2, Some(2), true)),
        (&[wrong, None, None, Some(2), Some(3)], (3, Some(2), false)),
        (&[Some(1), None, None, Some(2)], (1, None, true)),
        (&[wrong, wrong, Some(1), Some(2)], (2, Some(2), false)),
    ];
    for (ahead_ms, expected) in table {
        assert_eq!(verdict(&Cluster::of(ahead_ms).rounds(15)), *expected, "{ahead_ms:?}");
    }
}

#[test]
fn clocks_agree_up_to_the_limit() {
    for (by_ms, is_agreed) in [(9_999, true), (10_000, true), (10_001, false)] {
        for apart in [[Some(0), Some(by_ms)], [Some(by_ms), Some(0)]] {
            assert_eq!(Cluster::of(&apart).round().is_agreed, is_agreed, "{apart:?}");
        }
    }
}

#[test]
fn an_own_clock_that_is_near_the_median_is_taken_as_it_is() {
    for (own_ms, time_ms) in [(-101, 0), (-100, -100), (0, 0), (100, 100), (101, 0)] {
        let judgement = Cluster::of(&[Some(own_ms), Some(0), Some(0)]).round();
        assert_eq!(verdict(&judgement), (time_ms, Some(0), true));
    }
}

#[test]
fn one_clock_that_jumps_moves_no_time_whichever_it_is() {
    for jumping in 0..3 {
        for by_ms in [6_000, 2 * HOUR_MS, -2 * HOUR_MS] {
            let mut cluster = Cluster::of(&[Some(0); 3]);
            cluster.rounds(3);
            cluster.ahead_ms[jumping] = Some(by_ms);
            for _ in 0..30 {
                assert_eq!(verdict(&cluster.round()), (0, Some(0), true), "clock {jumping} by {by_ms}");
            }
            cluster.ahead_ms[jumping] = Some(0);
            assert_eq!(verdict(&cluster.round()), (0, Some(0), true));
        }
    }
}

#[test]
fn two_nodes_keep_their_time_while_one_clock_is_wrong() {
    for jumping in 0..2 {
        let mut cluster = Cluster::of(&[Some(0); 2]);
        cluster.rounds(3);
        cluster.ahead_ms[jumping] = Some(2 * HOUR_MS);
        assert_eq!(verdict(&cluster.rounds(700)), (0, Some(0), false), "clock {jumping}");
        cluster.ahead_ms[jumping] = Some(0);
        assert_eq!(verdict(&cluster.round()), (0, Some(0), true));
    }
}

#[test]
fn a_majority_that_jumps_drops_nothing_for_a_while() {
    let mut cluster = Cluster::of(&[Some(0); 3]);
    cluster.rounds(3);
    cluster.ahead_ms = vec![Some(HOUR_MS), Some(HOUR_MS), Some(0)];
    assert_eq!(verdict(&cluster.rounds(10)), (HOUR_MS, Some(0), true));
    assert_eq!(verdict(&cluster.rounds(2)), (HOUR_MS, Some(HOUR_MS), true));
}

#[test]
fn a_node_alone_believes_a_jump_after_ten_minutes() {
    let mut cluster = Cluster::of(&[Some(0)]);
    cluster.rounds(3);
    cluster.ahead_ms = vec![Some(6_000)];
    assert_eq!(verdict(&cluster.rounds(600)), (0, Some(0), true));
    assert_eq!(verdict(&cluster.rounds(2)), (6_000, Some(6_000), true));
    cluster.ahead_ms = vec![Some(0)];
    assert_eq!(verdict(&cluster.rounds(600)), (6_000, Some(0), true), "dropping follows a step back at once");
    assert_eq!(verdict(&cluster.rounds(2)), (0, Some(0), true));
}

#[test]
fn a_restarted_node_drops_nothing_before_others_confirm_its_clock() {
    let mut alone = Cluster::restarted(&[Some(0)]);
    assert_eq!(verdict(&alone.rounds(600)), (0, None, true));
    assert_eq!(verdict(&alone.rounds(2)), (0, Some(0), true));
    let mut silent = Cluster::restarted(&[Some(0), None, None]);
    assert_eq!(verdict(&silent.rounds(700)), (0, None, true));
    silent.ahead_ms[1] = Some(-3);
    assert_eq!(verdict(&silent.round()), (0, Some(-3), true));
}

#[test]
fn a_reading_counts_for_ten_seconds() {
    let mut cluster = Cluster::of(&[Some(0), Some(101), Some(101)]);
    cluster.round();
    cluster.ahead_ms = vec![Some(0), None, None];
    assert_eq!(verdict(&cluster.rounds(9)), (101, Some(101), true));
    assert_eq!(verdict(&cluster.round()), (101, None, true), "time goes on as it was agreed");
    assert_eq!(cluster.round().ahead_ms.len(), 1);
}

#[test]
fn an_answer_counts_when_it_is_quick_and_a_members() {
    for (after_ms, peer, counts) in [(900, 1, true), (901, 1, false), (0, 5, false)] {
        let mut cluster = Cluster::of(&[Some(0), None]);
        cluster.round();
        let (asked, wall_us) = (cluster.now, cluster.wall_us(0).expect("it shows something"));
        cluster.now = asked.after(Duration::from_millis(after_ms));
        let mut effects = Vec::new();
        let input = Input::Told { peer: node(peer), wall_us: wall_us + after_ms * 500, asked };
        cluster.clocks.handle(cluster.now, input, &mut effects);
        assert_eq!(cluster.clocks.knows_majority(), counts, "{after_ms} ms, node {peer}");
        if counts {
            assert_eq!(verdict(&cluster.round()), (0, Some(0), true), "half the way is taken off");
        }
    }
}

#[test]
fn slow_answers_put_no_clock_ahead_of_the_right_ones() {
    // The own clock is wrong, and the way there takes all of the time or none of it.
    for wrong_ms in [33_000, -33_000] {
        for (there_ms, back_ms) in [(257, 0), (0, 257), (128, 128)] {
            let mut cluster = Cluster::of(&[Some(wrong_ms), None, None]);
            cluster.round();
            let asked = cluster.now;
            let right_us =
                cluster.wall_us(0).expect("it shows something").saturating_add_signed(-wrong_ms * 1_000);
            cluster.now = asked.after(Duration::from_millis(there_ms + back_ms));
            for peer in [1, 2] {
                let told = Input::Told { peer: node(peer), wall_us: right_us + there_ms * 1_000, asked };
                cluster.hand(told);
            }
            let (time_ms, ..) = verdict(&cluster.round());
            assert!((-257..=0).contains(&time_ms), "{wrong_ms}, {there_ms} there: {time_ms}");
        }
    }
}

#[test]
fn any_number_may_be_told_without_harm() {
    for wall_us in [0, 1, u64::MAX / 2, u64::MAX] {
        let mut cluster = Cluster::of(&[Some(0), None, Some(2)]);
        cluster.rounds(2);
        let judgement = cluster.hand(Input::Told { peer: node(1), wall_us, asked: cluster.now });
        assert!((0..=2).contains(&(judgement.time_us / 1_000 - WALL_MS)), "{judgement:?}");
    }
}

#[test]
fn a_clock_that_is_off_is_reported_once_and_withdrawn() {
    let mut cluster = Cluster::of(&[Some(0), Some(500), Some(0)]);
    cluster.rounds(100);
    assert_eq!(cluster.reports, [], "so far is not reported");
    cluster.ahead_ms[1] = Some(501);
    cluster.rounds(100);
    assert_eq!(cluster.reports, [(node(1), Some(501))]);
    cluster.ahead_ms[1] = Some(500);
    cluster.rounds(2);
    assert_eq!(cluster.reports, [(node(1), Some(501)), (node(1), None)]);
    cluster.ahead_ms[0] = Some(-HOUR_MS);
    cluster.rounds(700);
    let own: Vec<_> = cluster.reports.iter().skip(2).collect();
    assert_eq!(own, [&(ME, Some(-HOUR_MS)); 2], "the own clock is named, again after ten minutes");
}

#[test]
fn every_member_is_asked_in_its_turn() {
    let mut clocks = Clocks::new(ME, true);
    let members: BTreeSet<NodeId> = (0..300_u16)
        .map(|number| NodeId(std::array::from_fn(|at| if at < 2 { number.to_be_bytes()[at] } else { 0 })))
        .collect();
    let mut asked = BTreeMap::new();
    for _ in 0..3 {
        let mut effects = Vec::new();
        clocks.handle(Moment(0), Input::Ticked { wall_us: 5, members: members.clone() }, &mut effects);
        for effect in effects {
            if let Effect::Ask { peer } = effect {
                *asked.entry(peer).or_insert(0) += 1;
            }
        }
    }
    assert_eq!((asked.len(), asked.values().sum::<i32>()), (299, 384));
}
