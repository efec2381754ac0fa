//! Hard links: a file is read under the first of its names, and its other names get what was found.

use crate::manifest::record::Entry;

/// A file has lost its first name: its next one takes that place. Answers which.
pub(super) fn promote(entries: &mut [Entry], lost: usize) -> Option<usize> {
    let (head, tail) = entries.split_at_mut(lost + 1);
    let first = &head[lost].path;
    let mut others = tail.iter_mut().enumerate().filter(|(_, e)| e.hardlink_of() == Some(first));
    let (next, entry) = others.next()?;
    entry.rare_mut().hardlink_of = None;
    let path = entry.path.to_vec();
    others.for_each(|(_, other)| other.rare_mut().hardlink_of = Some(path.clone()));
    Some(lost + 1 + next)
}

/// Give the other names of a file the result of its first.
pub(super) fn share(entries: &mut [Entry]) {
    for index in 0..entries.len() {
        let Some(first) = entries[index].hardlink_of() else { continue };
        let place = entries.binary_search_by(|entry| (*entry.path).cmp(first));
        let Ok(place) = place else { continue };
        let (known, entry) = if place < index {
            let (head, tail) = entries.split_at_mut(index);
            (&head[place], &mut tail[0])
        } else {
            continue;
        };
        entry.digest = known.digest;
        entry.status = known.status;
        if let Some(detail) = known.detail() {
            entry.rare_mut().detail = Some(detail.to_owned());
        }
        if known.digest.is_some() {
            entry.identity = known.identity;
        }
    }
}
