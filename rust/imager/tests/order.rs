//! The order of writes: at no moment does the disk boot half a system, and who the machine is and the
//! marker are there before it boots the new one.

mod common;

use std::cell::Cell;

use common::MIB;
use common::recorded::{Recorder, SECTOR, apply, case, zeros};
use holdfast_imager::Fault;

#[test]
fn a_disk_boots_the_old_system_or_the_whole_new_one() {
    let case = case();
    let disk = Recorder::new(case.old.clone(), None);
    let carried_at = Cell::new(0);
    case.replace(&disk, || {
        let medium = disk.medium.lock().unwrap();
        assert_eq!(medium.flushed, medium.writes.len(), "all of it is on the medium");
        carried_at.set(medium.writes.len());
        Ok(())
    })
    .unwrap();
    let done = disk.bytes();
    let medium = disk.medium.into_inner().unwrap();
    let (size, total) = (done.len(), medium.writes.len());
    assert_eq!(&done[SECTOR..SECTOR + 8], b"EFI PART");
    assert_eq!(&done[size - SECTOR..size - SECTOR + 8], b"EFI PART");
    assert_eq!((carried_at.get(), medium.flushed), (total - 2, total));
    let mut now = case.old.clone();
    for (index, write) in medium.writes.iter().enumerate() {
        let (head, backup) = (zeros(&now[..MIB]), zeros(&now[size - SECTOR..]));
        match index {
            0 => assert!(now == case.old),
            // What firmware takes for a backup of the table may go a moment later.
            1 => assert!(head),
            _ if index <= total - 2 => assert!(head && backup, "before write {index}"),
            _ => assert!(head, "the beginning comes last"),
        }
        apply(&mut now, write);
    }
    assert!(now == done);
    let last = &medium.writes[total - 1];
    assert_eq!((last.at, last.length), (0, MIB));
}

#[test]
fn a_fault_at_any_write_leaves_a_disk_that_does_not_boot_and_the_next_pass_one_that_does() {
    let case = case();
    let done = case.done();
    let whole = Recorder::new(case.old.clone(), None);
    case.replace(&whole, || Ok(())).unwrap();
    let total = whole.medium.into_inner().unwrap().writes.len();
    for fails_at in 0..total {
        let disk = Recorder::new(case.old.clone(), Some(fails_at));
        let carried = Cell::new(false);
        case.replace(&disk, || {
            carried.set(true);
            Ok(())
        })
        .expect_err("it failed");
        let cut = disk.bytes();
        if fails_at == 0 {
            assert!(cut == case.old);
        } else {
            assert!(zeros(&cut[..MIB]), "write {fails_at}");
        }
        assert_eq!(carried.get(), fails_at >= total - 2, "write {fails_at}");
        let again = Recorder::new(cut, None);
        case.replace(&again, || Ok(())).unwrap();
        assert!(again.bytes() == done, "after write {fails_at}");
    }
}

#[test]
fn without_its_identity_the_new_system_does_not_boot() {
    let case = case();
    let disk = Recorder::new(case.old.clone(), None);
    case.replace(&disk, || Err(Fault::new("it reads back differently"))).expect_err("the carrying");
    let cut = disk.bytes();
    assert!(zeros(&cut[..MIB]) && zeros(&cut[cut.len() - SECTOR..]));
}
