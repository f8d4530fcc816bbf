//! Who reads which partition: what a group's leader decides, and how it is written.
//!
//! Subscriptions and assignments are opaque bytes to the broker, so other clients in the group
//! read ours and we read theirs. We write version 0, which everybody understands, and read every
//! version: later ones only append fields. Nothing here trusts a count of the other side.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::TopicPartition;

/// How partitions are dealt out. The broker picks one that every member offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    /// Each topic in contiguous stretches; the first members get one more.
    Range,
    /// All partitions of all topics in turn.
    RoundRobin,
}

impl Strategy {
    /// What we offer, the preferred first: librdkafka's default list, and Java's default
    /// contains `range`.
    pub(super) const OFFERED: [Strategy; 2] = [Strategy::Range, Strategy::RoundRobin];

    /// The name on the wire.
    pub(super) fn name(self) -> &'static str {
        match self {
            Strategy::Range => "range",
            Strategy::RoundRobin => "roundrobin",
        }
    }

    /// The strategy of that name, if it is one of ours.
    pub(super) fn from_name(name: &str) -> Option<Strategy> {
        Self::OFFERED
            .into_iter()
            .find(|strategy| strategy.name() == name)
    }
}

/// A member as its JoinGroup introduced it to the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subscriber {
    pub(super) member_id: String,
    /// Static id, where the member has one.
    pub(super) instance_id: Option<String>,
    pub(super) topics: Vec<String>,
}

/// What each member gets, by member id. Every member has an entry, maybe an empty one.
pub(super) type Shares = BTreeMap<String, Vec<TopicPartition>>;

/// Deals out the partitions of the topics that `counts` knows.
///
/// Every partition of a subscribed topic goes to exactly one subscriber of that topic.
pub(super) fn assign(
    strategy: Strategy,
    subscribers: &[Subscriber],
    counts: &BTreeMap<String, i32>,
) -> Shares {
    let mut members: Vec<(&Subscriber, BTreeSet<&str>)> = subscribers
        .iter()
        .map(|member| (member, member.topics.iter().map(String::as_str).collect()))
        .collect();
    // Static members first, by their own name: it survives a restart, the member id does not, so
    // that their share stays what it was.
    members.sort_by_key(|(member, _)| {
        (
            member.instance_id.is_none(),
            member.instance_id.as_deref().unwrap_or_default(),
            member.member_id.as_str(),
        )
    });
    let mut shares: Shares = members
        .iter()
        .map(|(member, _)| (member.member_id.clone(), Vec::new()))
        .collect();
    let mut turn = 0;
    for (topic, &count) in counts {
        let name: std::sync::Arc<str> = topic.as_str().into();
        let interested: Vec<&str> = members
            .iter()
            .filter(|(_, topics)| topics.contains(topic.as_str()))
            .map(|(member, _)| member.member_id.as_str())
            .collect();
        if interested.is_empty() {
            continue;
        }
        let mut stretches = Stretches::new(count, interested.len());
        for partition in 0..count {
            let owner = match strategy {
                Strategy::Range => stretches.next_owner().and_then(|i| interested.get(i)),
                Strategy::RoundRobin => loop {
                    // Ends: somebody is interested.
                    let candidate = members.get(turn % members.len());
                    turn += 1;
                    match candidate {
                        Some((member, topics)) if topics.contains(topic.as_str()) => {
                            break interested.iter().find(|id| **id == member.member_id);
                        }
                        _ => {}
                    }
                },
            };
            if let Some(share) = owner.and_then(|id| shares.get_mut(*id)) {
                share.push(TopicPartition::new(name.clone(), partition));
            }
        }
    }
    shares
}

/// Hands out indices of members in contiguous stretches that differ by at most one.
struct Stretches {
    base: usize,
    longer: usize,
    member: usize,
    left: usize,
}

impl Stretches {
    fn new(count: i32, members: usize) -> Self {
        let count = usize::try_from(count).unwrap_or(0);
        let (base, longer) = (count / members, count % members);
        Self {
            base,
            longer,
            member: 0,
            left: base + usize::from(longer > 0),
        }
    }

    fn next_owner(&mut self) -> Option<usize> {
        while self.left == 0 {
            self.member += 1;
            if self.base == 0 && self.member >= self.longer {
                return None;
            }
            self.left = self.base + usize::from(self.member < self.longer);
        }
        self.left -= 1;
        Some(self.member)
    }
}

/// A subscription of version 0 to these topics.
pub(super) fn encode_subscription(topics: &BTreeSet<String>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(0);
    out.put_i32(length(topics.len()));
    for topic in topics {
        put_string(&mut out, topic);
    }
    out.put_i32(-1); // no user data
    out.freeze()
}

/// The topics that a member subscribes to; `None` when the bytes are not a subscription.
pub(super) fn decode_subscription(bytes: &[u8]) -> Option<Vec<String>> {
    let mut input = bytes;
    if input.is_empty() {
        return Some(Vec::new());
    }
    version(&mut input)?;
    let count = input.try_get_i32().ok()?;
    let mut topics = Vec::new();
    for _ in 0..count {
        topics.push(take_string(&mut input)?);
    }
    // User data and what later versions append tells nothing that we need.
    Some(topics)
}

/// An assignment of version 0.
pub(super) fn encode_assignment(partitions: &[TopicPartition]) -> Bytes {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for owned in partitions {
        topics
            .entry(&owned.topic)
            .or_default()
            .push(owned.partition);
    }
    let mut out = BytesMut::new();
    out.put_i16(0);
    out.put_i32(length(topics.len()));
    for (topic, numbers) in topics {
        put_string(&mut out, topic);
        out.put_i32(length(numbers.len()));
        for number in numbers {
            out.put_i32(number);
        }
    }
    out.put_i32(-1); // no user data
    out.freeze()
}

/// What the leader gave us; `None` when the bytes are not an assignment. No bytes: nothing.
pub(super) fn decode_assignment(bytes: &[u8]) -> Option<Vec<TopicPartition>> {
    let mut input = bytes;
    if input.is_empty() {
        return Some(Vec::new());
    }
    version(&mut input)?;
    let count = input.try_get_i32().ok()?;
    let mut partitions = BTreeSet::new();
    for _ in 0..count {
        let topic: std::sync::Arc<str> = take_string(&mut input)?.into();
        for _ in 0..input.try_get_i32().ok()? {
            let number = input.try_get_i32().ok()?;
            partitions.insert(TopicPartition::new(topic.clone(), number));
        }
    }
    Some(partitions.into_iter().collect())
}

/// The part of an assignment that is of one topic, and what is of others: a leader gone wrong may
/// deal out what a member does not subscribe to. Bytes that are no assignment stay as they are.
pub(super) fn only(assignment: &Bytes, topic: &str) -> (Bytes, Vec<String>) {
    let Some(partitions) = decode_assignment(assignment) else {
        return (assignment.clone(), Vec::new());
    };
    let (ours, strange): (Vec<_>, Vec<_>) = partitions
        .into_iter()
        .partition(|partition| *partition.topic == *topic && partition.partition >= 0);
    let strange = strange.iter().map(ToString::to_string).collect();
    (encode_assignment(&ours), strange)
}

/// Later versions append fields, so the number itself decides nothing but plausibility.
fn version(input: &mut &[u8]) -> Option<i16> {
    input.try_get_i16().ok().filter(|version| *version >= 0)
}

fn take_string(input: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(input.try_get_i16().ok()?).ok()?;
    let (text, rest) = input.split_at_checked(length)?;
    *input = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// Topic names have at most 249 bytes; a longer one could not have been subscribed to.
fn put_string(out: &mut BytesMut, text: &str) {
    out.put_i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
    out.put_slice(text.as_bytes());
}

fn length(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn member(id: &str, instance: Option<&str>, topics: &[&str]) -> Subscriber {
        Subscriber {
            member_id: id.into(),
            instance_id: instance.map(Into::into),
            topics: topics.iter().map(ToString::to_string).collect(),
        }
    }

    fn counts(of: &[(&str, i32)]) -> BTreeMap<String, i32> {
        of.iter().map(|(t, n)| (t.to_string(), *n)).collect()
    }

    fn numbers(shares: &Shares, id: &str) -> Vec<String> {
        shares[id].iter().map(ToString::to_string).collect()
    }

    #[test]
    fn range_gives_contiguous_stretches_and_the_first_get_more() {
        let members = [
            member("b", None, &["t"]),
            member("a", None, &["t"]),
            member("c", None, &["t"]),
        ];
        let shares = assign(Strategy::Range, &members, &counts(&[("t", 5)]));
        assert_eq!(numbers(&shares, "a"), ["t-0", "t-1"]);
        assert_eq!(numbers(&shares, "b"), ["t-2", "t-3"]);
        assert_eq!(numbers(&shares, "c"), ["t-4"]);
    }

    #[test]
    fn members_beyond_the_partitions_get_nothing() {
        let members = [
            member("a", None, &["t"]),
            member("b", None, &["t"]),
            member("c", None, &["other"]),
        ];
        for strategy in Strategy::OFFERED {
            let shares = assign(strategy, &members, &counts(&[("t", 1)]));
            assert_eq!(numbers(&shares, "a"), ["t-0"]);
            assert!(shares["b"].is_empty() && shares["c"].is_empty());
        }
    }

    #[test]
    fn static_members_come_first() {
        let members = [member("a", None, &["t"]), member("z", Some("one"), &["t"])];
        let shares = assign(Strategy::Range, &members, &counts(&[("t", 3)]));
        assert_eq!(numbers(&shares, "z"), ["t-0", "t-1"]);
        assert_eq!(numbers(&shares, "a"), ["t-2"]);
    }

    #[test]
    fn roundrobin_passes_over_members_that_do_not_subscribe() {
        let members = [member("a", None, &["t", "u"]), member("b", None, &["u"])];
        let shares = assign(
            Strategy::RoundRobin,
            &members,
            &counts(&[("t", 2), ("u", 2)]),
        );
        assert_eq!(numbers(&shares, "a"), ["t-0", "t-1", "u-1"]);
        assert_eq!(numbers(&shares, "b"), ["u-0"]);
    }

    #[test]
    fn names_on_the_wire() {
        assert_eq!(Strategy::from_name("range"), Some(Strategy::Range));
        assert_eq!(
            Strategy::from_name("roundrobin"),
            Some(Strategy::RoundRobin)
        );
        assert_eq!(Strategy::from_name("cooperative-sticky"), None);
    }

    #[test]
    fn subscription_is_the_version_that_everybody_reads() {
        let topics = BTreeSet::from(["b".to_string(), "a".to_string()]);
        let bytes = encode_subscription(&topics);
        assert_eq!(
            &bytes[..],
            [0, 0, 0, 0, 0, 2, 0, 1, b'a', 0, 1, b'b', 255, 255, 255, 255]
        );
        assert_eq!(decode_subscription(&bytes).unwrap(), ["a", "b"]);
    }

    #[test]
    fn later_versions_of_other_clients_are_read() {
        use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription};
        use kafka_protocol::protocol::{Encodable, StrBytes};
        for version in 0..=3i16 {
            let mut out = BytesMut::new();
            out.put_i16(version);
            let mut theirs = ConsumerProtocolSubscription::default()
                .with_topics(vec![StrBytes::from_static_str("t")])
                .with_user_data(Some(Bytes::from_static(b"sticky")));
            if version >= 2 {
                theirs = theirs.with_generation_id(7);
            }
            theirs.encode(&mut out, version).unwrap();
            assert_eq!(decode_subscription(&out).unwrap(), ["t"], "{version}");

            let mut out = BytesMut::new();
            out.put_i16(version);
            ConsumerProtocolAssignment::default()
                .with_user_data(Some(Bytes::from_static(b"x")))
                .encode(&mut out, version)
                .unwrap();
            assert_eq!(decode_assignment(&out).unwrap(), [], "{version}");
        }
    }

    #[test]
    fn no_bytes_are_no_assignment_and_damaged_ones_are_refused() {
        assert_eq!(decode_assignment(b"").unwrap(), []);
        assert_eq!(decode_assignment(b"\0"), None);
        assert_eq!(decode_assignment(b"\xff\xff\0\0\0\0"), None);
        // A count that the bytes cannot hold: refused without an allocation of that size.
        assert_eq!(decode_assignment(b"\0\0\x7f\xff\xff\xff"), None);
        assert_eq!(decode_subscription(b"\0\0\x7f\xff\xff\xff\0\x01"), None);
        assert_eq!(decode_subscription(b"\0\0\0\0\0\x01\0\x01\xff"), None);
    }

    #[test]
    fn what_nobody_subscribed_to_is_told_apart() {
        let dealt = ["in-0", "other-3", "in-2"].map(|name| {
            let (topic, number) = name.split_once('-').unwrap();
            TopicPartition::new(topic, number.parse().unwrap())
        });
        let (ours, strange) = only(&encode_assignment(&dealt), "in");
        let kept = decode_assignment(&ours).unwrap();
        assert_eq!(kept, [dealt[0].clone(), dealt[2].clone()]);
        assert_eq!(strange, ["other-3"]);
        assert_eq!(only(&Bytes::new(), "in").1, Vec::<String>::new());
        let damaged = Bytes::from_static(b"\0");
        assert_eq!(only(&damaged, "in").0, damaged);
    }

    fn groups() -> impl proptest::strategy::Strategy<Value = (Vec<(bool, u8)>, Vec<i32>)> {
        (
            proptest::collection::vec(
                (proptest::bool::ANY, proptest::bits::u8::masked(0b1111)),
                1..8,
            ),
            proptest::collection::vec(0..20i32, 4),
        )
    }

    fn build(members: &[(bool, u8)], counts: &[i32]) -> (Vec<Subscriber>, BTreeMap<String, i32>) {
        let members = members
            .iter()
            .enumerate()
            .map(|(i, (fixed, topics))| Subscriber {
                member_id: format!("m{i}"),
                instance_id: fixed.then(|| format!("s{}", 9 - i)),
                topics: (0..4)
                    .filter(|t| topics & (1 << t) != 0)
                    .map(|t| format!("t{t}"))
                    .collect(),
            })
            .collect();
        let counts = counts
            .iter()
            .enumerate()
            .map(|(t, n)| (format!("t{t}"), *n))
            .collect();
        (members, counts)
    }

    proptest! {
        #[test]
        fn every_partition_has_exactly_one_owner_that_wants_it((members, counts) in groups()) {
            let (members, counts) = build(&members, &counts);
            for strategy in Strategy::OFFERED {
                let shares = assign(strategy, &members, &counts);
                prop_assert_eq!(shares.len(), members.len());
                let mut seen = BTreeSet::new();
                for member in &members {
                    for partition in &shares[&member.member_id] {
                        prop_assert!(member.topics.iter().any(|t| **t == *partition.topic));
                        prop_assert!(seen.insert(partition.clone()));
                    }
                }
                let wanted: i32 = counts
                    .iter()
                    .filter(|(t, _)| members.iter().any(|m| m.topics.contains(t)))
                    .map(|(_, n)| n)
                    .sum();
                prop_assert_eq!(seen.len(), usize::try_from(wanted).unwrap());
            }
        }

        #[test]
        fn shares_differ_by_at_most_one((members, counts) in groups()) {
            let (members, counts) = build(&members, &counts);
            let shares = assign(Strategy::Range, &members, &counts);
            for topic in counts.keys() {
                let sizes: Vec<usize> = members
                    .iter()
                    .filter(|m| m.topics.contains(topic))
                    .map(|m| shares[&m.member_id].iter().filter(|p| *p.topic == **topic).count())
                    .collect();
                if let (Some(most), Some(least)) = (sizes.iter().max(), sizes.iter().min()) {
                    prop_assert!(most - least <= 1);
                }
            }
            let everywhere: Vec<Subscriber> = members
                .into_iter()
                .map(|m| Subscriber { topics: counts.keys().cloned().collect(), ..m })
                .collect();
            let sizes: Vec<usize> =
                assign(Strategy::RoundRobin, &everywhere, &counts).values().map(Vec::len).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }

        #[test]
        fn what_is_written_is_read(numbers in proptest::collection::btree_set((0..3u8, 0..50i32), 0..20)) {
            let partitions: Vec<TopicPartition> = numbers
                .into_iter()
                .map(|(t, n)| TopicPartition::new(format!("t{t}"), n))
                .collect();
            prop_assert_eq!(decode_assignment(&encode_assignment(&partitions)).unwrap(), partitions);
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(0u8.., 0..64)) {
            let _ = decode_assignment(&bytes);
            let _ = decode_subscription(&bytes);
        }
    }
}
