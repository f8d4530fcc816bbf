//! The codecs of record batches: gzip, snappy, lz4 and zstd, in the framings that Java and librdkafka
//! write and read. No size that they announce is believed.

use std::io::{self, Read, Write};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::read::MultiGzDecoder;

use super::super::options::Compression;
use super::{Fault, MAX_UNPACKED};

/// Frames that a compressed batch may be cut into. Writers make one; each costs its reader tables
/// and buffers, however little is in it.
pub(super) const MAX_FRAMES: usize = 1000;

/// Before Java's blocks of snappy: magic, then two version numbers.
const JAVA_SNAPPY: &[u8] = b"\x82SNAPPY\0";
const JAVA_SNAPPY_HEAD: usize = 16;

/// Inflates what a batch packs, up to `limit` bytes.
///
/// # Errors
/// A codec that is unknown, damaged or over its bounds.
pub(super) fn inflate(codec: i16, packed: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
    let named = |codec, error: &dyn std::fmt::Display| Fault::Codec {
        codec,
        found: error.to_string(),
    };
    let mut out = Vec::new();
    match codec {
        1 => read_bounded(MultiGzDecoder::new(packed), &mut out, limit, "gzip")?,
        2 => unsnap(packed, &mut out, limit)?,
        3 => {
            let mut rest = packed;
            let mut frames = 0;
            while !rest.is_empty() {
                count_frame(&mut frames)?;
                let before = rest.len();
                let frame = lz4_flex::frame::FrameDecoder::new(&mut rest);
                read_bounded(frame, &mut out, limit, "lz4")?;
                if rest.len() == before {
                    return Err(named("lz4", &"no frame"));
                }
            }
        }
        4 => {
            let mut rest = packed;
            let mut frames = 0;
            while !rest.is_empty() {
                count_frame(&mut frames)?;
                let frame = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(
                    &mut rest,
                    MAX_UNPACKED as u64,
                )
                .map_err(|error| named("zstd", &error))?;
                read_bounded(frame, &mut out, limit, "zstd")?;
            }
        }
        codec => return Err(Fault::UnknownCodec { codec }),
    }
    Ok(out)
}

fn count_frame(frames: &mut usize) -> Result<(), Fault> {
    *frames += 1;
    if *frames > MAX_FRAMES {
        return Err(Fault::Malformed("too many compressed frames"));
    }
    Ok(())
}

/// Appends what `reader` has, as long as the whole stays within bounds.
fn read_bounded(
    reader: impl Read,
    out: &mut Vec<u8>,
    limit: usize,
    codec: &'static str,
) -> Result<(), Fault> {
    let room = (limit - out.len()) as u64;
    reader
        .take(room + 1)
        .read_to_end(out)
        .map_err(|error| Fault::Codec {
            codec,
            found: error.to_string(),
        })?;
    if out.len() > limit {
        return Err(Fault::TooLarge);
    }
    Ok(())
}

/// Snappy in Java's framing or, as librdkafka writes it, bare.
fn unsnap(packed: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), Fault> {
    let Some(mut blocks) = packed
        .starts_with(JAVA_SNAPPY)
        .then(|| packed.get(JAVA_SNAPPY_HEAD..))
        .flatten()
    else {
        return unsnap_block(packed, out, limit);
    };
    while !blocks.is_empty() {
        let block = blocks
            .try_get_i32()
            .ok()
            .and_then(|length| usize::try_from(length).ok())
            .and_then(|length| blocks.split_at_checked(length));
        let Some((block, rest)) = block else {
            return Err(Fault::Codec {
                codec: "snappy",
                found: "a block beyond the end".into(),
            });
        };
        unsnap_block(block, out, limit)?;
        blocks = rest;
    }
    Ok(())
}

fn unsnap_block(block: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), Fault> {
    let damaged = |error: snap::Error| Fault::Codec {
        codec: "snappy",
        found: error.to_string(),
    };
    let start = out.len();
    let size = snap::raw::decompress_len(block).map_err(damaged)?;
    if size > limit - start {
        return Err(Fault::TooLarge);
    }
    // The stream cannot hold more than 64 bytes for each 2 of its own: a size beyond that is a
    // lie that would cost memory before it is found out.
    if size > block.len().saturating_mul(64) {
        return Err(Fault::Malformed("snappy announces more than it can hold"));
    }
    out.resize(start + size, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut out[start..])
        .map_err(damaged)?;
    out.truncate(start + written);
    Ok(())
}

/// Packs the records of a batch; tells the number of the codec, too.
///
/// # Errors
/// None in practice: it is written to memory.
pub(super) fn deflate(compression: Compression, plain: BytesMut) -> io::Result<(i16, Bytes)> {
    /// What Java puts into one block.
    const SNAPPY_BLOCK: usize = 32 << 10;
    Ok(match compression {
        Compression::None => (0, plain.freeze()),
        Compression::Gzip => {
            let mut gzip =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(&plain)?;
            (1, gzip.finish()?.into())
        }
        Compression::Snappy => {
            let mut framed = BytesMut::from(JAVA_SNAPPY);
            framed.put_i32(1);
            framed.put_i32(1);
            let mut encoder = snap::raw::Encoder::new();
            for block in plain.chunks(SNAPPY_BLOCK) {
                let packed = encoder.compress_vec(block).map_err(io::Error::other)?;
                framed.put_i32(i32::try_from(packed.len()).map_err(io::Error::other)?);
                framed.extend_from_slice(&packed);
            }
            (2, framed.freeze())
        }
        Compression::Lz4 => {
            // Java reads independent blocks only.
            let info = lz4_flex::frame::FrameInfo::new()
                .block_size(lz4_flex::frame::BlockSize::Max64KB)
                .block_mode(lz4_flex::frame::BlockMode::Independent);
            let mut lz4 = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            lz4.write_all(&plain)?;
            (3, lz4.finish().map_err(io::Error::other)?.into())
        }
        Compression::Zstd => {
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            (
                4,
                ruzstd::encoding::compress_to_vec(&plain[..], level).into(),
            )
        }
    })
}
