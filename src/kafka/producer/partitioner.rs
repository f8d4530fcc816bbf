//! Which partition a key belongs to, as Java's default partitioner has it: whoever joins our
//! topics with others by key relies on it.

/// The partition of a key among `count`, which is at least 1.
pub(super) fn partition(key: &[u8], count: i32) -> i32 {
    // Java clears the sign instead of taking the absolute value.
    (murmur2(key) & 0x7fff_ffff) % count.max(1)
}

/// The hash in the variant that Kafka uses.
fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    // Java's length is an int; keys are far below its end.
    let mut hash = SEED ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (byte, shift) in tail.iter().zip([0, 8, 16]) {
            hash ^= u32::from(*byte) << shift;
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    (hash ^ (hash >> 15)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that Apache Kafka's own tests expect.
    #[test]
    fn hashes_as_java_does() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn every_key_has_a_partition() {
        for count in [1, 3, 7] {
            for key in 0..100u32 {
                assert!((0..count).contains(&partition(&key.to_be_bytes(), count)));
            }
        }
        assert_eq!(partition(b"", 0), 0);
    }
}
