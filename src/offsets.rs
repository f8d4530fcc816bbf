//! Which offsets are settled; the contiguous watermark of a partition.
