//! The kubelet's registration dials by path, and the Go library of gRPC then says that path,
//! percent-encoded, as `:authority`. The `http` crate takes that for no authority, and h2 refuses
//! the stream (`PROTOCOL_ERROR`) before any service sees it. So it is mended on the way.
//!
//! In HPACK a value stands behind its own length and is looked up in tables by number only, so one
//! can be exchanged without knowing any other.

use tokio::{
    io::{
        self, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, copy, duplex, split,
    },
    net::UnixStream,
};

/// An authority of nobody, as a plain HPACK string.
const NOBODY: &[u8] = b"\x09localhost";

/// Bytes of a frame at most, as HTTP/2 has it until a server allows more: ours does not.
const FRAME_LIMIT: usize = 1 << 14;
const PREFACE: usize = 24;
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const PLAIN_AND_WHOLE: u8 = 0x4;
const PADDED_PRIORITY_OR_WHOLE: u8 = 0x2c;

/// The same connection with an authority that h2 understands.
pub(crate) fn mended(stream: UnixStream) -> DuplexStream {
    let (server, client) = duplex(4 * FRAME_LIMIT);
    tokio::spawn(async move {
        let ((from_kubelet, mut to_kubelet), (mut from_server, to_server)) =
            (split(stream), split(client));
        // the end of one is the end of the connection
        tokio::select! {
            _ended = pass(from_kubelet, to_server) => {}
            _ended = copy(&mut from_server, &mut to_kubelet) => {}
        }
    });
    server
}

/// Passes frames on until either end closes.
async fn pass(mut from: ReadHalf<UnixStream>, mut to: WriteHalf<DuplexStream>) -> io::Result<()> {
    let mut preface = [0; PREFACE];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    loop {
        let mut head = [0; HEAD];
        from.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, rest @ ..] = head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if length > FRAME_LIMIT {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        if kind == HEADERS && flags & PADDED_PRIORITY_OR_WHOLE == PLAIN_AND_WHOLE {
            payload = mend(&payload).unwrap_or(payload);
        }
        let [.., a, b, c] = payload.len().to_be_bytes();
        to.write_all(&[a, b, c, kind, flags]).await?;
        to.write_all(&rest).await?;
        to.write_all(&payload).await?;
    }
}

/// A header block with another authority; `None` if it is no header block.
fn mend(mut block: &[u8]) -> Option<Vec<u8>> {
    let mut mended = Vec::with_capacity(block.len());
    while let Some(first) = block.first() {
        let (prefix, has_value) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let (field, size) = integer(block, prefix)?;
        mended.extend(block.get(..size)?);
        block = block.get(size..)?;
        // a name of the client's own
        if has_value && field == 0 {
            let (name, rest) = string(block)?;
            mended.extend(name);
            block = rest;
        }
        if has_value {
            let (value, rest) = string(block)?;
            // the first of the static table is `:authority`
            mended.extend(if field == 1 { NOBODY } else { value });
            block = rest;
        }
    }
    Some(mended)
}

/// A string with its length, and what follows.
fn string(block: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, size) = integer(block, 7)?;
    block.split_at_checked(size.checked_add(length)?)
}

/// An integer and how many bytes it takes (RFC 7541, 5.1).
fn integer(block: &[u8], prefix: u32) -> Option<(usize, usize)> {
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(*block.first()?) & mask;
    if value < mask {
        return Some((value, 1));
    }
    for (index, shift) in (1..).zip([0, 7, 14]) {
        let byte = usize::from(*block.get(index)?);
        value += (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some((value, index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_authority_is_another() {
        // as grpc-go sends it: method, scheme, path, authority, a header of its own
        let of = |authority: &[u8]| {
            [b"\x83\x86\x44\x02/x", &[0x41][..], authority, b"\x40\x02te\x08trailers\xbe"].concat()
        };
        assert_eq!(mend(&of(b"\x04%2Fa")), Some(of(NOBODY)));
        let long = [&[0x7f, 0x81, 0x01][..], &[b'a'; 256]].concat();
        assert_eq!(mend(&of(&long)), Some(of(NOBODY)));
        assert_eq!(mend(b"\x41\x05ab"), None);
    }

    proptest! {
        #[test]
        fn no_block_panics(block in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _mended = mend(&block);
        }
    }
}
