//! Numbers, UUIDs, text and checksums in on-disk formats.

/// A little-endian number of 16 bits; `None` beyond the end.
pub fn u16_le(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_le_bytes(*word))
}

/// A little-endian number of 32 bits; `None` beyond the end.
pub fn u32_le(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

/// A little-endian number of 64 bits; `None` beyond the end.
pub fn u64_le(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}

/// A big-endian number of 16 bits; `None` beyond the end.
pub fn u16_be(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

/// A big-endian number of 32 bits; `None` beyond the end.
pub fn u32_be(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

/// A big-endian number of 64 bits; `None` beyond the end.
pub fn u64_be(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|word| u64::from_be_bytes(*word))
}

/// A UUID as text, from its bytes in order.
pub fn uuid(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A GUID as text: its first three fields are little-endian.
pub fn guid(bytes: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mixed: Vec<u8> = order.iter().filter_map(|index| bytes.get(*index).copied()).collect();
    uuid(&mixed)
}

/// The bytes of a GUID that is text, as [`guid`] reads them; `None` for other text.
pub fn guid_bytes(text: &str) -> Option<[u8; 16]> {
    let digits = digits(text);
    if digits.len() != 32 {
        return None;
    }
    let mut bytes = [0; 16];
    for (number, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * number..2 * number + 2], 16).ok()?;
    }
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(bytes)
}

/// Hexadecimal digits of bytes, in lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hexadecimal digits of a UUID in lower case: mdadm, blkid and the kernel separate them
/// differently.
pub fn digits(uuid: &str) -> String {
    uuid.chars().filter(char::is_ascii_hexdigit).map(|c| c.to_ascii_lowercase()).collect()
}

/// Text without control characters.
pub fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}

/// Text up to the first zero byte, without blanks at its end; `None` if nothing is left.
pub fn label(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = printable(&String::from_utf8_lossy(&bytes[..end]));
    Some(text.trim_end().to_owned()).filter(|text| !text.is_empty() && text.len() <= 255)
}

/// CRC-32 as GPT has it.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// CRC-32C (Castagnoli), as XFS, btrfs and ext4 have it. Bitwise: superblocks are small.
pub fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ POLYNOMIAL };
        }
    }
    !crc
}

/// A size or an index in memory; too large ones fit nothing.
pub fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    #[test]
    fn guids_are_text_and_back() {
        let bytes: [u8; 16] = std::array::from_fn(|number| number as u8);
        assert_eq!(super::guid(&bytes), "03020100-0504-0706-0809-0a0b0c0d0e0f");
        assert_eq!(super::guid_bytes(&super::guid(&bytes)), Some(bytes));
        assert_eq!(super::guid_bytes("03020100-0504-0706-0809-0a0b0c0d0e"), None);
    }

    #[test]
    fn checksums_are_the_standard_ones() {
        assert_eq!(super::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(super::crc32(b"123456789"), 0xcbf4_3926);
    }
}
