//! What must differ between playgrounds and pods.

use std::net::{SocketAddr, TcpListener};

use super::PlaygroundError;

/// Random bytes.
pub(super) fn bytes<const N: usize>() -> Result<[u8; N], PlaygroundError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_none| PlaygroundError::NoRandom)?;
    Ok(bytes)
}

/// A version 4 UUID.
pub(super) fn uid() -> Result<String, PlaygroundError> {
    let number = u128::from_be_bytes(bytes()?);
    let number = number & !(0xf000_u128 << 64) & !(0xc000_u128 << 48)
        | (0x4000_u128 << 64)
        | (0x8000_u128 << 48);
    let digits = format!("{number:032x}");
    let part = |from, to| digits.get(from..to).unwrap_or_default();
    Ok(format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)))
}

/// A port for safe below those that the kernel gives to clients, so that it stays free while safe
/// is down.
pub(super) fn free_address() -> Result<SocketAddr, PlaygroundError> {
    for _ in 0..100 {
        let port = 20_000 + u16::from_be_bytes(bytes()?) % 10_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(PlaygroundError::NoPort)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_uid_is_a_version_4_uuid() {
        let uid = uid().unwrap();
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "4");
        assert!("89ab".contains(&uid[19..20]), "{uid}");
    }
}
