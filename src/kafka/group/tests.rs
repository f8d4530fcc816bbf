use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::{Just, Strategy as _, prop_assert, prop_oneof, proptest};

use super::*;

const TIMING: Timing = Timing {
    session_timeout: Duration::from_secs(45),
    heartbeat_interval: Duration::from_secs(3),
    rebalance_timeout: Duration::from_secs(60),
};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn coordinator() -> Coordinator {
    Coordinator {
        name: "broker:9092".into(),
        address: ([127, 0, 0, 1], 9092).into(),
    }
}

fn owns(numbers: &[i32]) -> Bytes {
    let partitions: Vec<_> = numbers
        .iter()
        .map(|n| TopicPartition::new("t", *n))
        .collect();
    assignor::encode_assignment(&partitions)
}

fn answer(generation: i32, member_id: &str) -> Joined {
    Joined {
        identity: Identity {
            generation,
            member_id: member_id.into(),
        },
        protocol: "range".into(),
        leads: false,
        members: Vec::new(),
    }
}

fn code(code: Code) -> Failure {
    Failure::Code(code)
}

/// Time goes on only by hand.
struct Test {
    group: Group,
    now: Instant,
}

impl Test {
    fn new() -> Self {
        let now = Instant::now();
        let mut group = Group::new("g", None, TIMING, now);
        assert_eq!(group.step(now), Step::Find);
        group.found(coordinator());
        Self { group, now }
    }

    fn step(&mut self) -> Step {
        self.group.progress(self.now);
        match self.group.step(self.now) {
            Step::Pause(until) => {
                self.now = until;
                self.group.step(self.now)
            }
            step => step,
        }
    }

    fn join(&mut self) -> (Ticket, Arc<str>) {
        match self.step() {
            Step::Join { ticket, member_id } => (ticket, member_id),
            other => panic!("{other:?}"),
        }
    }

    fn sync(&mut self) -> (Ticket, Identity) {
        match self.step() {
            Step::Sync {
                ticket, identity, ..
            } => (ticket, identity),
            other => panic!("{other:?}"),
        }
    }

    /// Into the group as `m` in this generation, with these partitions.
    fn enter(&mut self, generation: i32, numbers: &[i32]) -> Vec<Assigned> {
        let (ticket, _) = self.join();
        self.group.joined(ticket, answer(generation, "m"), self.now);
        let (ticket, identity) = self.sync();
        assert_eq!(identity, answer(generation, "m").identity);
        self.group.synced(ticket, &owns(numbers), self.now);
        assert_eq!(self.step(), Step::Run);
        match self.group.notice() {
            Some(Notice::Assigned {
                generation: told,
                partitions,
            }) => {
                assert_eq!(told, generation);
                partitions
            }
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self, code: Code) {
        let identity = self.group.identity.clone();
        self.group
            .refused(&identity, "Heartbeat", code, self.now, self.now);
    }
}

/// The pause that is due now.
fn pause(t: &mut Test) -> Duration {
    let until = t.group.not_before;
    until.map_or(Duration::ZERO, |until| until.duration_since(t.now))
}

#[test]
fn k19_a_broker_that_wants_another_id_for_ever_is_asked_less_often() {
    let mut t = Test::new();
    let mut pauses = Vec::new();
    for n in 0..8 {
        let (ticket, _) = t.join();
        let given = format!("m-{n}").into();
        t.group.member_id_required(ticket, given, t.now);
        pauses.push(pause(&mut t));
    }
    assert_eq!(pauses[0], Duration::ZERO, "the first is how it goes");
    assert!(pauses[7] >= Duration::from_millis(800), "{pauses:?}");
    assert!(t.group.trouble().unwrap().contains("(79)"));
}

#[test]
fn k23_a_sync_that_is_throttled_is_put_later_and_not_joined_for_again() {
    let mut t = Test::new();
    let (ticket, _) = t.join();
    let members = vec![("m".to_owned(), None, Bytes::new())];
    let leading = Joined {
        leads: true,
        members,
        ..answer(1, "m")
    };
    t.group.joined(ticket, leading, t.now);
    let Step::Plan { ticket, .. } = t.step() else {
        panic!()
    };
    let shares = Shares::from([("m".to_owned(), vec![TopicPartition::new("t", 0)])]);
    t.group.planned(ticket, shares.clone());
    let throttled = Failure::Connection(Error::Throttled {
        address: "broker:9092".into(),
        left: seconds(10),
    });
    for _ in 0..3 {
        let Step::Sync {
            ticket, shares: s, ..
        } = t.step()
        else {
            panic!()
        };
        assert_eq!(s, shares);
        t.group.sync_failed(ticket, &throttled, t.now);
        assert!(pause(&mut t) >= MOMENT);
    }
    assert_eq!(t.group.trouble(), None);
    let (ticket, _) = t.sync();
    t.group.synced(ticket, &owns(&[0]), t.now);
    assert_eq!(t.step(), Step::Run);
}

#[test]
fn k08_a_member_that_is_thrown_out_at_once_comes_back_less_often() {
    let mut t = Test::new();
    let mut pauses = Vec::new();
    for generation in 1..10 {
        t.enter(generation, &[0]);
        t.refused(Code::IllegalGeneration);
        assert_eq!(t.group.notice(), Some(Notice::Lost));
        pauses.push(pause(&mut t));
    }
    assert!(pauses[0] >= Duration::from_millis(80), "{pauses:?}");
    assert!(pauses[8] >= seconds(4), "{pauses:?}");
    // A membership that proved true is worth coming back to.
    t.enter(10, &[0]);
    let identity = t.group.identity.clone();
    t.group.well(&identity, t.now, t.now);
    t.refused(Code::IllegalGeneration);
    assert_eq!(pause(&mut t), Duration::ZERO);
}

#[test]
fn k19_a_membership_that_cannot_be_is_none() {
    let leads_nobody = Joined {
        leads: true,
        ..answer(1, "m")
    };
    let unknown = Joined {
        protocol: "sticky".into(),
        ..answer(1, "m")
    };
    for nonsense in [answer(-1, "m"), answer(1, ""), leads_nobody, unknown] {
        let mut t = Test::new();
        let (ticket, _) = t.join();
        t.group.joined(ticket, nonsense, t.now);
        assert!(pause(&mut t) > Duration::ZERO);
        let said = t.group.trouble().unwrap();
        assert!(said.contains("makes no sense"), "{said}");
        t.enter(2, &[0]);
        assert_eq!(t.group.trouble(), None);
    }
}

#[test]
fn k06_found_and_joined_are_no_reason_to_hurry() {
    let mut t = Test::new();
    let mut pauses = Vec::new();
    for generation in 1..7 {
        let (ticket, _) = t.join();
        t.group.joined(ticket, answer(generation, "m"), t.now);
        let (ticket, _) = t.sync();
        let failure = code(Code::NotCoordinator);
        t.group.sync_failed(ticket, &failure, t.now);
        pauses.push(pause(&mut t));
        t.now += seconds(2);
        assert_eq!(t.step(), Step::Find);
        t.group.found(coordinator());
    }
    assert!(pauses[5] >= Duration::from_millis(800), "{pauses:?}");
}

#[test]
fn heartbeats_that_are_refused_for_an_unknown_reason_are_told() {
    let mut t = Test::new();
    t.enter(1, &[0]);
    t.refused(Code::Unknown(9999));
    assert!(t.group.trouble().unwrap().contains("9999"));
    let identity = t.group.identity.clone();
    t.group.well(&identity, t.now, t.now);
    assert_eq!(t.group.trouble(), None);
}

#[test]
fn joins_with_the_id_that_the_broker_wants() {
    let mut t = Test::new();
    let (ticket, member_id) = t.join();
    assert_eq!(&*member_id, "");
    assert_eq!(t.step(), Step::Await);
    t.group.member_id_required(ticket, "given".into(), t.now);
    let (second, member_id) = t.join();
    assert_eq!(&*member_id, "given");
    assert_ne!(ticket, second);
    // The first question is history.
    t.group.joined(ticket, answer(9, "given"), t.now);
    assert_eq!(t.step(), Step::Await);
    t.group.joined(second, answer(1, "given"), t.now);
    t.sync();
}

#[test]
fn the_leader_plans_for_members_of_other_clients() {
    let mut t = Test::new();
    let (ticket, _) = t.join();
    let topics = BTreeSet::from(["t".to_string()]);
    let joined = Joined {
        leads: true,
        members: vec![
            ("m".into(), None, assignor::encode_subscription(&topics)),
            ("odd".into(), None, Bytes::from_static(b"\xff")),
        ],
        ..answer(1, "m")
    };
    t.group.joined(ticket, joined, t.now);
    let Step::Plan {
        ticket,
        strategy,
        members,
    } = t.step()
    else {
        panic!("no plan");
    };
    assert_eq!(members[0].topics, ["t"]);
    assert!(members[1].topics.is_empty());
    let shares = assignor::assign(strategy, &members, &BTreeMap::from([("t".into(), 2)]));
    t.group.planned(ticket, shares.clone());
    match t.step() {
        Step::Sync { shares: sent, .. } => assert_eq!(sent, shares),
        other => panic!("{other:?}"),
    }
}

#[test]
fn k07_a_partition_that_returns_at_once_keeps_its_lease() {
    let mut t = Test::new();
    let first = t.enter(1, &[0, 1]);
    assert!(first.iter().all(|a| !a.kept && a.lease.is_live()));
    t.refused(Code::RebalanceInProgress);
    let deadline = t.now + seconds(60 - 6 - 5);
    assert_eq!(t.group.notice(), Some(Notice::Revoking { deadline }));
    assert_eq!(t.step(), Step::Run);
    t.group.release(&[], t.now);
    let second = t.enter(2, &[1, 2]);
    assert!(second[0].kept && second[0].lease == first[1].lease);
    assert!(first[1].lease.is_live());
    assert!(!second[1].kept);
    assert!(!first[0].lease.is_live(), "went to somebody else");
}

#[test]
fn work_given_up_is_not_kept() {
    let mut t = Test::new();
    let first = t.enter(1, &[0]);
    t.refused(Code::RebalanceInProgress);
    t.group.notice();
    t.group.release(&[TopicPartition::new("t", 0)], t.now);
    assert!(!first[0].lease.is_live());
    let second = t.enter(2, &[0]);
    assert!(!second[0].kept && second[0].lease.is_live());
}

#[test]
fn a_generation_in_between_ends_the_lease() {
    let mut t = Test::new();
    let first = t.enter(1, &[0]);
    t.refused(Code::RebalanceInProgress);
    t.group.notice();
    t.group.release(&[], t.now);
    let (ticket, _) = t.join();
    t.group.joined(ticket, answer(2, "m"), t.now);
    let (ticket, _) = t.sync();
    t.group
        .sync_failed(ticket, &code(Code::RebalanceInProgress), t.now);
    let second = t.enter(3, &[0]);
    assert!(!second[0].kept);
    assert!(!first[0].lease.is_live());
}

#[test]
fn k07_the_drain_deadline_ends_all_leases_even_unpolled() {
    let mut t = Test::new();
    let first = t.enter(1, &[0]);
    t.refused(Code::RebalanceInProgress);
    t.group.notice();
    let deadline = t.now + seconds(49);
    // Heartbeats are answered so until the group is complete; the session goes on with each.
    t.now += seconds(40);
    t.refused(Code::RebalanceInProgress);
    t.group.beat(deadline - seconds(1));
    assert!(first[0].lease.is_live());
    t.group.beat(deadline);
    assert!(!first[0].lease.is_live());
    assert_eq!(t.group.notice(), Some(Notice::Lost));
    t.now = deadline;
    let (_, member_id) = t.join();
    assert_eq!(&*member_id, "m");
}

#[test]
fn without_partitions_there_is_nothing_to_drain() {
    let mut t = Test::new();
    t.enter(1, &[]);
    t.refused(Code::RebalanceInProgress);
    assert_eq!(t.group.notice(), None);
    t.join();
}

#[test]
fn k08_a_lost_membership_ends_leases_at_once() {
    for (refusal, id_after) in [
        (Code::IllegalGeneration, "m"),
        (Code::UnknownMemberId, ""),
        (Code::FencedMemberEpoch, ""),
    ] {
        let mut t = Test::new();
        let first = t.enter(1, &[0]);
        t.refused(refusal);
        assert!(!first[0].lease.is_live());
        assert_eq!(t.group.notice(), Some(Notice::Lost));
        assert_eq!(t.group.committer(), None);
        let (_, member_id) = t.join();
        assert_eq!(&*member_id, id_after);
    }
}

#[test]
fn k08_a_session_that_nobody_answers_ends_the_leases_even_unpolled() {
    let mut t = Test::new();
    let first = t.enter(1, &[0]);
    let identity = t.group.identity.clone();
    let (asked, answered) = (t.now + seconds(3), t.now + seconds(13));
    assert!(matches!(t.group.beat(asked), Beat::Send { .. }));
    // The coordinator may have seen it the moment it was sent, and nothing since.
    t.group.progress(answered);
    t.group.well(&identity, asked, answered);
    let lost = Failure::Code(Code::NetworkException);
    t.group
        .coordinator_lost(coordinator().address, &lost, answered);
    let end = asked + seconds(45);
    assert_eq!(t.group.beat(end - seconds(1)), Beat::Wait(end));
    assert!(first[0].lease.is_live());
    assert_eq!(t.group.beat(end), Beat::Idle);
    assert!(!first[0].lease.is_live());
    assert_eq!(t.group.notice(), Some(Notice::Lost));
    assert_eq!(t.group.committer(), None);
    // The group may still know us: it is asked as the same member.
    t.now = end;
    assert_eq!(t.step(), Step::Find);
    t.group.found(coordinator());
    let (_, member_id) = t.join();
    assert_eq!(&*member_id, "m");
}

#[test]
fn k08_answers_to_an_old_generation_are_dropped() {
    let mut t = Test::new();
    t.enter(1, &[0]);
    let old = t.group.identity.clone();
    t.refused(Code::RebalanceInProgress);
    t.group.notice();
    t.group.release(&[], t.now);
    let second = t.enter(2, &[0]);
    t.group
        .refused(&old, "Heartbeat", Code::UnknownMemberId, t.now, t.now);
    assert!(second[0].lease.is_live());
    assert_eq!(t.group.notice(), None);
    assert_eq!(t.step(), Step::Run);
}

#[test]
fn k06_a_moved_coordinator_costs_neither_member_id_nor_generation() {
    let mut t = Test::new();
    let first = t.enter(1, &[0]);
    t.refused(Code::NotCoordinator);
    assert!(first[0].lease.is_live());
    // Fetching goes on while the back-off runs.
    assert_eq!(t.group.step(t.now), Step::Run);
    t.now += seconds(2);
    assert_eq!(t.step(), Step::Find);
    t.group.found(coordinator());
    assert_eq!(t.step(), Step::Run);
    assert_eq!(t.group.committer().unwrap(), answer(1, "m").identity);
    // The same while joining.
    t.refused(Code::RebalanceInProgress);
    t.group.release(&[], t.now);
    let (ticket, _) = t.join();
    t.group
        .join_failed(ticket, &code(Code::NotCoordinator), t.now);
    assert_eq!(t.step(), Step::Find);
    t.group.found(coordinator());
    let (_, member_id) = t.join();
    assert_eq!(&*member_id, "m");
}

#[test]
fn k06_a_loading_coordinator_is_asked_again() {
    let mut t = Test::new();
    let (ticket, _) = t.join();
    t.group
        .join_failed(ticket, &code(Code::CoordinatorLoadInProgress), t.now);
    assert!(matches!(t.group.step(t.now), Step::Pause(_)));
    t.join();
    // It costs a member neither its id nor, when it comes back at once, its partitions.
    let mut t = Test::new();
    let first = t.enter(1, &[0]);
    t.refused(Code::RebalanceInProgress);
    t.group.notice();
    t.group.release(&[], t.now);
    let (ticket, _) = t.join();
    t.group
        .join_failed(ticket, &code(Code::CoordinatorLoadInProgress), t.now);
    let (ticket, member_id) = t.join();
    assert_eq!(&*member_id, "m");
    t.group.joined(ticket, answer(2, "m"), t.now);
    let (ticket, _) = t.sync();
    t.group.synced(ticket, &owns(&[0]), t.now);
    assert!(first[0].lease.is_live());
    // Nor does it say anything about one that is in.
    t.refused(Code::CoordinatorLoadInProgress);
    assert_eq!(t.step(), Step::Run);
    assert!(first[0].lease.is_live());
}

#[test]
fn refusals_that_need_a_person_stop_it() {
    let rows = [
        (Code::FencedInstanceId, FatalKind::Fenced),
        (Code::GroupAuthorizationFailed, FatalKind::NotAuthorised),
        (Code::TopicAuthorizationFailed, FatalKind::NotAuthorised),
        (Code::InconsistentGroupProtocol, FatalKind::Configuration),
        (Code::InvalidGroupId, FatalKind::Configuration),
        (Code::InvalidSessionTimeout, FatalKind::Configuration),
        (Code::GroupMaxSizeReached, FatalKind::Configuration),
    ];
    for (refusal, kind) in rows {
        let mut t = Test::new();
        let (ticket, _) = t.join();
        t.group.join_failed(ticket, &code(refusal), t.now);
        match t.step() {
            Step::Stop(fatal) => {
                assert_eq!(fatal.kind, kind);
                assert!(fatal.message.contains("group g"), "{}", fatal.message);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(t.group.beat(t.now), Beat::End);
        // The same answer to a heartbeat.
        let mut t = Test::new();
        let first = t.enter(1, &[0]);
        t.refused(refusal);
        assert!(matches!(t.step(), Step::Stop(_)));
        assert!(!first[0].lease.is_live());
    }
}

#[test]
fn a_wedged_group_is_left() {
    let mut t = Test::new();
    for generation in 0.. {
        if let Step::Abandon { member_id } = match t.step() {
            Step::Join { ticket, .. } => {
                t.group.joined(ticket, answer(generation, "m"), t.now);
                continue;
            }
            Step::Sync { ticket, .. } => {
                t.group
                    .sync_failed(ticket, &code(Code::RebalanceInProgress), t.now);
                continue;
            }
            other => other,
        } {
            assert_eq!(&*member_id, "m");
            break;
        }
        assert!(generation < 1000);
    }
    let (_, member_id) = t.join();
    assert_eq!(&*member_id, "");
    // Also when the answer never comes.
    t.now += seconds(121);
    assert!(matches!(t.step(), Step::Abandon { .. }));
}

#[test]
fn heartbeats_go_out_while_a_member() {
    let mut t = Test::new();
    assert_eq!(t.group.beat(t.now), Beat::Idle);
    t.enter(1, &[0]);
    let due = t.now + seconds(3);
    assert_eq!(t.group.beat(t.now), Beat::Wait(due));
    assert!(matches!(t.group.beat(due), Beat::Send { .. }));
    assert_eq!(t.group.beat(due), Beat::Wait(due + seconds(3)));
    t.refused(Code::RebalanceInProgress);
    assert!(matches!(t.group.beat(due + seconds(3)), Beat::Send { .. }));
    t.group.release(&[], t.now);
    assert_eq!(t.group.beat(due + seconds(9)), Beat::Idle);
    assert_eq!(t.group.leave().as_deref(), Some("m"));
    assert_eq!(t.group.beat(due + seconds(9)), Beat::End);
}

#[test]
fn a_stalled_owner_gives_its_partitions_to_others() {
    let mut t = Test::new();
    let first = t.enter(1, &[0]);
    let late = t.now + seconds(60);
    let identity = t.group.identity.clone();
    t.group.well(&identity, late - seconds(1), late);
    assert_eq!(
        t.group.beat(late),
        Beat::Leave {
            member_id: "m".into(),
            coordinator: coordinator()
        }
    );
    assert!(!first[0].lease.is_live());
    assert_eq!(t.group.notice(), Some(Notice::Lost));
    t.now = late;
    let (_, member_id) = t.join();
    assert_eq!(&*member_id, "");
}

#[derive(Debug, Clone)]
enum Input {
    Step,
    Join(i32),
    JoinFails(Code),
    Sync(Vec<i32>),
    SyncFails(Code),
    Refused(Code),
    StaleRefused(Code),
    StaleSync,
    Release(Option<i32>),
    Changed,
    Unreachable,
    Beat,
    Pass(u64),
}

fn codes() -> impl proptest::strategy::Strategy<Value = Code> {
    prop_oneof![
        Just(Code::CoordinatorLoadInProgress),
        Just(Code::CoordinatorNotAvailable),
        Just(Code::NotCoordinator),
        Just(Code::IllegalGeneration),
        Just(Code::UnknownMemberId),
        Just(Code::RebalanceInProgress),
        Just(Code::UnknownServerError),
    ]
}

fn inputs() -> impl proptest::strategy::Strategy<Value = Input> {
    prop_oneof![
        8 => Just(Input::Step),
        6 => (1..3i32).prop_map(Input::Join),
        6 => proptest::collection::vec(0..4i32, 0..4).prop_map(Input::Sync),
        1 => codes().prop_map(Input::JoinFails),
        1 => codes().prop_map(Input::SyncFails),
        2 => codes().prop_map(Input::Refused),
        1 => codes().prop_map(Input::StaleRefused),
        1 => Just(Input::StaleSync),
        3 => proptest::option::of(0..4i32).prop_map(Input::Release),
        1 => Just(Input::Changed),
        1 => Just(Input::Unreachable),
        2 => Just(Input::Beat),
        2 => (0..40u64).prop_map(Input::Pass),
    ]
}

proptest! {
    /// Whatever brokers and time do: leases of two generations are never live together, old
    /// answers change nothing, and what is fetched under is what the last notice said.
    #[test]
    fn k08_never_in_two_generations(script in proptest::collection::vec(inputs(), 1..120)) {
        let mut now = Instant::now();
        let mut group = Group::new("g", None, TIMING, now);
        let (mut join, mut sync) = (None, None);
        let (mut old_tickets, mut old_identities) = (Vec::new(), Vec::new());
        let mut generation = 0;
        // Every lease ever given, with the last generation that it was given in.
        let mut given: Vec<(TopicPartition, Lease, i32)> = Vec::new();
        let mut told: BTreeMap<TopicPartition, Lease> = BTreeMap::new();
        for input in script {
            match input {
                Input::Step => match group.step(now) {
                    Step::Find => group.found(coordinator()),
                    Step::Join { ticket, .. } => join = Some(ticket),
                    Step::Sync { ticket, identity, .. } => {
                        old_identities.push(identity);
                        sync = Some(ticket);
                    }
                    Step::Pause(until) => now = until,
                    Step::Stop(fatal) => prop_assert!(false, "{}", fatal.message),
                    _ => {}
                },
                Input::Join(ahead) => if let Some(ticket) = join.take() {
                    old_tickets.push(ticket);
                    generation += ahead;
                    group.joined(ticket, answer(generation, "m"), now);
                },
                Input::JoinFails(why) => if let Some(ticket) = join.take() {
                    old_tickets.push(ticket);
                    group.join_failed(ticket, &code(why), now);
                },
                Input::Sync(numbers) => if let Some(ticket) = sync.take() {
                    old_tickets.push(ticket);
                    group.synced(ticket, &owns(&numbers), now);
                },
                Input::SyncFails(why) => if let Some(ticket) = sync.take() {
                    old_tickets.push(ticket);
                    group.sync_failed(ticket, &code(why), now);
                },
                Input::Refused(why) => {
                    let identity = group.identity.clone();
                    group.refused(&identity, "Heartbeat", why, now, now);
                }
                Input::StaleRefused(why) => {
                    for old in old_identities.iter().filter(|old| **old != group.identity).cloned().collect::<Vec<_>>() {
                        let before = format!("{group:?}");
                        group.refused(&old, "Heartbeat", why, now, now);
                        let after = format!("{group:?}");
                        prop_assert!(before == after);
                    }
                }
                Input::StaleSync => for ticket in &old_tickets {
                    let before = format!("{group:?}");
                    group.synced(*ticket, &owns(&[0, 1, 2, 3]), now);
                    group.joined(*ticket, answer(99, "x"), now);
                    let after = format!("{group:?}");
                    prop_assert!(before == after);
                },
                Input::Release(n) => {
                    let abandoned = n.map(|n| TopicPartition::new("t", n));
                    if matches!(group.state, State::Draining { .. })
                        && let Some(partition) = &abandoned
                    {
                        told.remove(partition);
                    }
                    group.release(abandoned.as_slice(), now);
                }
                Input::Changed => group.partitions_changed(now),
                Input::Unreachable => group.coordinator_lost(coordinator().address, &code(Code::NetworkException), now),
                Input::Beat => { group.beat(now); }
                Input::Pass(n) => { now += seconds(n); group.progress(now); }
            }
            while let Some(notice) = group.notice() {
                match notice {
                    Notice::Assigned { generation, partitions } => {
                        let mut next = BTreeMap::new();
                        for entry in partitions {
                            let before = given.iter_mut().find(|(_, lease, _)| *lease == entry.lease);
                            if let Some((partition, _, given_in)) = before {
                                prop_assert!(entry.kept && *partition == entry.partition);
                                prop_assert!(*given_in + 1 == generation);
                                *given_in = generation;
                            } else {
                                prop_assert!(!entry.kept);
                                given.push((entry.partition.clone(), entry.lease.clone(), generation));
                            }
                            next.insert(entry.partition, entry.lease);
                        }
                        told = next;
                    }
                    Notice::Revoking { .. } => {}
                    Notice::Lost => told.clear(),
                }
            }
            for (partition, lease, _) in &given {
                if lease.is_live() {
                    prop_assert!(told.get(partition) == Some(lease), "{partition} lives on");
                }
            }
            // What a commit would go out under is the generation that the lease was given in.
            if let Some(identity) = group.committer() {
                for (partition, lease, given_in) in &given {
                    if group.lease(partition) == Some(lease) && lease.is_live() {
                        prop_assert!(identity.generation == *given_in);
                    }
                }
            }
            for (partition, lease) in &told {
                prop_assert!(lease.is_live(), "{partition} died without a word");
            }
        }
    }
}
