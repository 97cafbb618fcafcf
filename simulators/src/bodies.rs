//! Bodies that no client may swallow whole, for both doubles.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use flate2::{Compress, Compression, FlushCompress};
use futures::stream;

/// Size of the pieces that long bodies are sent in.
pub const CHUNK: usize = 64 * 1024;

const NESTING: usize = 100_000;

/// Writes lists in lists.
pub fn deep() -> String {
    format!("{}{}", "[".repeat(NESTING), "]".repeat(NESTING))
}

/// Begins as told and goes on with blanks for ever.
pub fn endless(head: &'static str) -> Body {
    let head = Bytes::from_static(head.as_bytes());
    let filling = Bytes::from(vec![b' '; CHUNK]);
    let all = std::iter::once(head).chain(std::iter::repeat(filling));
    Body::from_stream(stream::iter(all.map(Ok::<_, Infallible>)))
}

/// Sends a byte at a time, with so many seconds between two of them; a second without a number.
pub fn drip(bytes: Vec<u8>, seconds: Option<f64>) -> Body {
    let pause = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let pause = pause.unwrap_or(Duration::from_secs(1));
    let bytes = stream::unfold((bytes, 0), move |(bytes, at)| async move {
        let byte = *bytes.get(at)?;
        if at > 0 {
            tokio::time::sleep(pause).await;
        }
        Some((Ok::<_, Infallible>(Bytes::copy_from_slice(&[byte])), (bytes, at + 1)))
    });
    Body::from_stream(bytes)
}

/// Streams a few kilobytes that unpacks to a megabyte, over and over.
pub fn gzip_bomb() -> Body {
    let head = Bytes::from_static(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    let block = deflated_spaces();
    let all = std::iter::once(head).chain(std::iter::repeat(block));
    Body::from_stream(stream::iter(all.map(Ok::<_, Infallible>)))
}

fn deflated_spaces() -> Bytes {
    let spaces = vec![b' '; 1024 * 1024];
    let mut packed = Vec::with_capacity(CHUNK);
    // A full flush forgets the window, so the block can be repeated as it is.
    let _ = Compress::new(Compression::fast(), false).compress_vec(&spaces, &mut packed, FlushCompress::Full);
    Bytes::from(packed)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_bomb_unpacks_to_spaces() {
        let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        for _ in 0..3 {
            bytes.extend_from_slice(&deflated_spaces());
        }
        assert!(bytes.len() < 100_000);
        let mut unpacked = vec![0; 3 * 1024 * 1024];
        flate2::read::GzDecoder::new(&bytes[..]).read_exact(&mut unpacked).expect("three megabytes");
        assert!(unpacked.iter().all(|byte| *byte == b' '));
    }
}
