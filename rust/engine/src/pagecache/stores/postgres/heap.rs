//! Rows of PostgreSQL's catalogue, from the files of its tables.
//!
//! Pages and rows are as in PostgreSQL's manual, "Database Page Layout", and in
//! `src/include/access/htup_details.h`; the map of files is `src/backend/utils/cache/relmapper.c`.
//! Columns that are read are at the beginning of each row, of fixed width and never null.

use std::collections::HashMap;

/// Bytes in the header of a page.
const PAGE_HEADER: usize = 24;
/// Bytes in the header of a row.
const ROW_HEADER: usize = 23;
/// The magic number of `pg_filenode.map`, and how many entries it may have.
const MAP_MAGIC: u32 = 0x0059_2717;
const MAP_ENTRIES: usize = 64;

const XMIN_COMMITTED: u16 = 0x0100;
const XMIN_INVALID: u16 = 0x0200;
const XMAX_COMMITTED: u16 = 0x0400;
const XMAX_INVALID: u16 = 0x0800;
const XMAX_LOCK_ONLY: u16 = 0x0080;
const XMAX_IS_MULTI: u16 = 0x1000;

/// The bytes of a name column.
pub const NAME: usize = 64;

/// A row: its columns, and what decides whether it is there.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    xmin: u32,
    xmax: u32,
    flags: u16,
    columns: &'a [u8],
}

impl<'a> Row<'a> {
    /// Whether the row is there, by its own flags and by who committed.
    ///
    /// A row that several transactions locked or replaced at once counts as there.
    pub fn is_there(&self, mut committed: impl FnMut(u32) -> bool) -> bool {
        let born = self.flags & XMIN_COMMITTED != 0
            || (self.flags & XMIN_INVALID == 0 && committed(self.xmin));
        let kept = self.flags & (XMAX_INVALID | XMAX_LOCK_ONLY | XMAX_IS_MULTI) != 0
            || self.xmax == 0
            || (self.flags & XMAX_COMMITTED == 0 && !committed(self.xmax));
        born && kept
    }

    /// A column of four bytes.
    pub fn number(&self, at: usize) -> Option<u32> {
        number(self.columns, at)
    }

    /// A column of one byte.
    pub fn byte(&self, at: usize) -> Option<u8> {
        self.columns.get(at).copied()
    }

    /// A column of type `name`, in the encoding of the database.
    pub fn name(&self, at: usize) -> Option<&'a [u8]> {
        let name = self.columns.get(at..at + NAME)?;
        Some(name.split(|&byte| byte == 0).next().unwrap_or(name))
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The size of the pages of a file, from its first page; `None` if that is none.
pub fn page_size(first: &[u8]) -> Option<usize> {
    let size = usize::from(short(first, 18)? & 0xff00);
    (size.is_power_of_two() && (1024..=32768).contains(&size)).then_some(size)
}

/// The rows of a page, also those that are there no longer.
pub fn rows(page: &[u8]) -> impl Iterator<Item = Row<'_>> {
    let lower = usize::from(short(page, 12).unwrap_or(0)).min(page.len());
    let lines = page.get(PAGE_HEADER..lower).unwrap_or_default();
    lines.chunks_exact(4).filter_map(move |line| {
        // Offset, state and length of a row, in 15, 2 and 15 bits.
        let line = u32::from_le_bytes(line.try_into().ok()?);
        let (offset, state, length) = (line & 0x7fff, line >> 15 & 3, line >> 17);
        let row = page.get(offset as usize..(offset + length) as usize)?;
        (state == 1 && row.len() >= ROW_HEADER).then_some(())?;
        Some(Row {
            xmin: number(row, 0)?,
            xmax: number(row, 4)?,
            flags: short(row, 20)?,
            columns: row.get(usize::from(row[22])..)?,
        })
    })
}

/// The files of the relations whose files are not in `pg_class`, from `pg_filenode.map`.
pub fn map(bytes: &[u8]) -> Option<HashMap<u32, u32>> {
    let entries = number(bytes, 4)? as usize;
    if number(bytes, 0)? != MAP_MAGIC || entries > MAP_ENTRIES {
        return None;
    }
    (0..entries)
        .map(|nth| Some((number(bytes, 8 + 8 * nth)?, number(bytes, 12 + 8 * nth)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_page_is_read_to_its_end(mut page in proptest::collection::vec(any::<u8>(), 0..9000)) {
            if page.len() > 20 {
                page[12..14].copy_from_slice(&4000_u16.to_ne_bytes());
            }
            for row in rows(&page) {
                let _ = (row.name(4), row.number(88), row.byte(115), row.is_there(|_| true));
            }
            let _ = (page_size(&page), map(&page));
        }
    }

    #[test]
    fn a_row_is_there_by_its_flags_or_by_who_committed() {
        let row = |flags, xmax| Row { xmin: 10, xmax, flags, columns: &[] };
        assert!(row(XMIN_COMMITTED | XMAX_INVALID, 11).is_there(|_| false));
        assert!(row(0, 0).is_there(|xid| xid == 10));
        assert!(!row(0, 0).is_there(|_| false));
        assert!(!row(XMIN_INVALID, 0).is_there(|_| true));
        assert!(!row(XMIN_COMMITTED | XMAX_COMMITTED, 11).is_there(|_| false));
        assert!(!row(XMIN_COMMITTED, 11).is_there(|xid| xid == 11));
        assert!(row(XMIN_COMMITTED, 11).is_there(|xid| xid == 10));
        assert!(row(XMIN_COMMITTED | XMAX_LOCK_ONLY, 11).is_there(|_| true));
    }

    #[test]
    fn a_map_is_refused_that_is_none() {
        let mut bytes = MAP_MAGIC.to_ne_bytes().to_vec();
        bytes.extend(1_u32.to_ne_bytes());
        bytes.extend(1259_u32.to_ne_bytes());
        assert_eq!(map(&bytes), None);
        bytes.extend(16400_u32.to_ne_bytes());
        assert_eq!(map(&bytes), Some(HashMap::from([(1259, 16400)])));
        bytes[0] ^= 1;
        assert_eq!(map(&bytes), None);
    }
}
