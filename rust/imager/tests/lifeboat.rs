//! Cuts while a disk with a lifeboat is written: whatever the disk's cache loses, it boots the old system,
//! the lifeboat or the new system, and what resumes from the lifeboat ends with the same disk.

mod boats;
mod common;

use boats::{Boots, Call, Case, DISK, NONCE, REGION, Recorder, SETUPS, Setup, cuts, fails};
use common::MIB;
use holdfast_imager::job::DiskRange;
use holdfast_imager::lifeboat::{Fence, Lifeboat};
use holdfast_imager::pipeline::{Blocks as _, WriteOptions};

/// Run from a state, judge every cut, and resume from some of those that boot the lifeboat.
fn explore(case: &Case, before: Vec<u8>, resumed: bool, depth: usize, count: &mut usize) {
    let (after, calls) = case.run(before.clone(), resumed);
    assert!(after == case.done, "the disk is the same however often it was cut");
    let mut lifeboats: Vec<Vec<u8>> = Vec::new();
    let (mut seen, mut newest) = (Vec::new(), 0);
    cuts(&before, &calls, case.setup.sector, 3, |disk| {
        let boots = case.boots(disk);
        assert_ne!(boots, Boots::Nothing, "{:?}, state {newest}", case.setup);
        let region = &disk[REGION.offset_bytes as usize..][..REGION.length_bytes as usize];
        let found = |bytes: &[u8]| bytes.starts_with(b"{\"");
        assert!(
            boots != Boots::New || found(region) || region[4096..].iter().all(|byte| *byte == 0),
            "what a cut has left of the lifeboat cannot be found by its header"
        );
        if !seen.contains(&boots) {
            seen.push(boots);
        }
        newest += 1;
        if boots == Boots::Lifeboat && newest % 13 == depth {
            lifeboats.push(disk.to_vec());
        }
    });
    *count += newest;
    let all = [Boots::Old, Boots::Lifeboat, Boots::New];
    assert!(all[usize::from(resumed)..].iter().all(|line| seen.contains(line)), "{seen:?}");
    if depth > 0 {
        let step = lifeboats.len().div_ceil(2).max(1);
        for disk in lifeboats.into_iter().step_by(step) {
            explore(case, disk, true, depth - 1, count);
        }
    }
}

fn every_cut(setup: Setup) {
    let (case, mut count) = (Case::new(setup), 0);
    assert_eq!(case.boots(&case.old), Boots::Old);
    assert_eq!(case.boots(&case.done), Boots::New);
    explore(&case, case.old.clone(), false, 2, &mut count);
    println!("{setup:?}: {count} states");
}

#[test]
fn every_cut_with_a_bios_and_an_mbr() {
    every_cut(SETUPS[0]);
}

#[test]
fn every_cut_with_a_bios_and_a_gpt() {
    every_cut(SETUPS[1]);
}

#[test]
fn every_cut_with_uefi() {
    every_cut(SETUPS[2]);
}

#[test]
fn every_cut_with_large_sectors() {
    SETUPS[3..].iter().for_each(|setup| every_cut(*setup));
}

/// Where in the calls the sector that decides is written.
fn switches(case: &Case, calls: &[Call]) -> Vec<usize> {
    let switch = case.setup.switch();
    let writes = |call: &Call| matches!(call, Call::Write { at, bytes } if *at < switch.end && at + bytes.len() > switch.start);
    calls.iter().enumerate().filter(|(_, call)| writes(call)).map(|(index, _)| index).collect()
}

fn has_dead_states(case: &Case, calls: &[Call]) -> bool {
    let mut dead = false;
    cuts(&case.old, calls, case.setup.sector, 0, |disk| dead |= case.boots(disk) == Boots::Nothing);
    dead
}

#[test]
fn each_switch_is_a_write_of_one_sector_and_a_wrong_order_is_noticed() {
    for setup in SETUPS {
        let case = Case::new(setup);
        let (_, calls) = case.run(case.old.clone(), false);
        let found = switches(&case, &calls);
        let [first, last] = found[..] else { panic!("{setup:?}: {} switches", found.len()) };
        for at in [first, last] {
            let Call::Write { bytes, .. } = &calls[at] else { panic!() };
            assert_eq!(bytes.len(), setup.sector);
            assert!(matches!(calls[at - 1], Call::Flush) && matches!(calls[at + 1], Call::Flush));
        }
        assert!(!has_dead_states(&case, &calls));
        let changed = |change: &dyn Fn(&mut Vec<Call>)| {
            let mut calls = calls.clone();
            change(&mut calls);
            has_dead_states(&case, &calls)
        };
        let clearing = |calls: &[Call]| {
            let clears = |call: &Call| matches!(call, Call::Write { at, .. } if *at < MIB);
            first + 1 + calls[first + 1..].iter().position(clears).unwrap()
        };
        assert!(
            changed(&|calls| {
                let before = clearing(calls);
                let mut index = 0;
                calls.retain(|call| {
                    index += 1;
                    !(matches!(call, Call::Flush) && (first + 1..=before).contains(&index))
                });
            }),
            "no flush between the first switch and what clears the old system"
        );
        assert!(changed(&|calls| drop(calls.remove(last - 1))), "no flush before the last switch");
        assert!(changed(&|calls| drop(calls.remove(last + 1))), "no flush after the last switch");
        assert!(changed(&|calls| drop(calls.remove(first))), "no first switch");
        assert!(
            changed(&|calls| {
                let after = clearing(calls);
                let switch = calls.remove(first);
                calls.insert(after, switch);
            }),
            "the old system's beginning is cleared before the first switch"
        );
        assert!(
            changed(&|calls| {
                let early = calls.remove(last);
                calls.insert(last - 2, early);
            }),
            "something is written after the last switch"
        );
        let bare = Recorder::new(case.old.clone(), setup.sector);
        case.replace(
            &bare,
            WriteOptions { grow: setup.grow.then_some(1), ..WriteOptions::default() },
        )
        .unwrap();
        assert!(has_dead_states(&case, &bare.into_parts().1), "without a lifeboat");
    }
}

#[test]
fn the_root_is_extended_up_to_the_lifeboat_and_no_further() {
    for setup in SETUPS.iter().filter(|setup| setup.grow) {
        let case = Case::new(*setup);
        let at = 2 * setup.sector + 40;
        let end = if setup.gpt {
            let last = u64::from_le_bytes(case.done[at..at + 8].try_into().unwrap());
            (last + 1) * setup.sector as u64
        } else {
            let sectors = u32::from_le_bytes(case.done[458..462].try_into().unwrap());
            MIB as u64 + u64::from(sectors) * setup.sector as u64
        };
        assert_eq!(end, REGION.offset_bytes, "{setup:?}");
        let range = REGION.offset_bytes as usize..;
        let region = &case.done[range][..REGION.length_bytes as usize];
        assert!(region.iter().all(|byte| *byte == 0), "nothing of it is left");
    }
}

#[test]
fn nothing_but_the_switches_writes_the_sector_or_the_range() {
    for setup in SETUPS {
        let case = Case::new(setup);
        let disk = Recorder::new(case.old.clone(), setup.sector);
        let lifeboat = Lifeboat::read(&disk, REGION, NONCE).unwrap();
        let fence = Fence::around(&lifeboat, &disk);
        let (sector, at) = (vec![1; setup.sector], REGION.offset_bytes);
        let end = at + REGION.length_bytes;
        for wrong in [setup.switch().start as u64, at, end - setup.sector as u64] {
            fails(fence.write_at(&sector, wrong), "over what the lifeboat has");
        }
        fails(fence.zero(0, MIB as u64), "over what the lifeboat has");
        fails(fence.zero(MIB as u64, 3 << 20), "over what the lifeboat has");
        for right in [at - setup.sector as u64, end, setup.switch().end as u64] {
            fence.write_at(&sector, right).unwrap();
        }
        let unchanged = &disk.into_parts().0[at as usize..end as usize];
        assert!(*unchanged == case.old[at as usize..end as usize]);
    }
}

#[test]
fn a_lifeboat_that_would_not_carry_is_refused_before_the_first_switch() {
    let case = Case::new(SETUPS[2]);
    let with = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = case.old.clone();
        change(&mut bytes);
        Recorder::new(bytes, 512)
    };
    let at = REGION.offset_bytes as usize;
    let whole = with(&|_| {});
    let read = |disk: &Recorder| Lifeboat::read(disk, REGION, NONCE);
    let lifeboat = read(&whole).unwrap();
    fails(Lifeboat::read(&whole, REGION, &"f".repeat(32)), "of another arming");
    let longer = DiskRange { length_bytes: REGION.length_bytes + 4096, ..REGION };
    fails(Lifeboat::read(&whole, longer, NONCE), "another length");
    fails(read(&Recorder::new(case.old.clone(), 4096)), "sectors of 512 bytes");
    fails(read(&with(&|disk| disk[at..at + 4096].fill(0))), "there is no lifeboat");
    fails(
        read(&with(&|disk| disk[at + 69632 + 100] ^= 1)),
        "boot sector of the lifeboat is damaged",
    );
    lifeboat.check_parts(&whole).unwrap();
    fails(lifeboat.check_parts(&with(&|disk| disk[at + 73728 + 699] ^= 1)), "the core");
    fails(lifeboat.check_parts(&with(&|disk| disk[at + 181_919] ^= 1)), "the kernel");
    lifeboat.check_beginnings(&case.head, &whole).unwrap();
    let plain = &Case::new(SETUPS[0]).head;
    fails(lifeboat.check_beginnings(plain, &whole), "the image has no GPT");
    let bare = with(&|disk| disk[450] = 0x83);
    fails(lifeboat.check_beginnings(&case.head, &bare), "the old system has no GPT");
    lifeboat.check_fit(&case.descriptor, &whole).unwrap();
    let mut large = case.descriptor.clone();
    large.size_bytes = REGION.offset_bytes + 512;
    fails(lifeboat.check_fit(&large, &whole), "not between the image");
}

#[test]
fn without_a_whole_journal_it_is_resumed_all_the_same() {
    let case = Case::new(SETUPS[0]);
    let (_, calls) = case.run(case.old.clone(), false);
    let mut half = None;
    cuts(&case.old, &calls, 512, 0, |disk| {
        if half.is_none() && case.boots(disk) == Boots::Lifeboat {
            half = Some(disk.to_vec());
        }
    });
    let mut disk = half.unwrap();
    let journal = REGION.offset_bytes as usize + 4096;
    disk[journal..journal + 65536].fill(0xa5);
    let disk = Recorder::new(disk, 512);
    let lifeboat = Lifeboat::read(&disk, REGION, NONCE).unwrap();
    let status = holdfast_imager::status::Status::new();
    assert_eq!((lifeboat.resume(&disk, &status), lifeboat.previous()), (1, None));
    // And the next boot knows of this one.
    let again = Lifeboat::read(&disk, REGION, NONCE).unwrap();
    assert_eq!(again.resume(&disk, &status), 2);
    let options = WriteOptions { grow: Some(1), lifeboat: Some(&again), compare: true };
    case.replace(&disk, options).unwrap();
    assert!(disk.into_parts().0 == case.done);
    assert_eq!(case.done.len(), DISK);
}
