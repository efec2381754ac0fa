//! Processes that do nothing but mincore(2), each with a memory map of its own.
//!
//! All threads of a process share one memory map. Its lock makes them wait for each other when they
//! map files and ask about them: two threads are slower than one. Two processes are twice as fast.
//!
//! A prober is a copy of the calling thread that shares the process's table of open files
//! (`CLONE_FILES`), so that a descriptor's number means the same file in both, and one stretch of
//! memory, through which it receives queries and returns answers. Other threads may have held any
//! lock at the moment of the copy. The prober therefore makes system calls and touches that stretch,
//! and nothing else: it allocates nothing, takes no lock and cannot panic.
//!
//! It receives no signal but SIGKILL, which the kernel sends when the thread that made it ends.

use std::cell::UnsafeCell;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use super::page_size;

/// Queries in one request.
pub const QUERIES: usize = 128;
/// Pages in one request.
pub const PAGES: usize = 64 * 1024;
/// How often a thread that waits for its prober checks whether it is still there.
const PATIENCE: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// An unused argument of a system call, in its full width.
const ZERO: libc::c_long = 0;

const IDLE: u32 = 0;
const ASKED: u32 = 1;
const ENDING: u32 = 2;

/// Pages `[start, start + pages)` of a file.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The file.
    pub fd: BorrowedFd<'a>,
    /// The first page.
    pub start: u64,
    /// How many pages, at least one.
    pub pages: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Slot {
    fd: i32,
    /// Of mmap(2) or mincore(2), or 0.
    errno: i32,
    offset: libc::off_t,
    pages: usize,
}

/// What both processes see.
#[repr(C)]
struct Shared {
    state: AtomicU32,
    page_size: UnsafeCell<usize>,
    count: UnsafeCell<usize>,
    slots: UnsafeCell<[Slot; QUERIES]>,
    vector: UnsafeCell<[u8; PAGES]>,
}

/// A process that answers one query after another, until this is dropped.
#[derive(Debug)]
pub struct Prober {
    shared: NonNull<Shared>,
    pid: libc::pid_t,
    alive: bool,
}

// SAFETY: the stretch of memory belongs to this value and its process; only the kernel's signal at
// the end of the thread that made it is bound to a thread, and its loss shows in `ask`.
unsafe impl Send for Prober {}

impl Prober {
    /// Start a process.
    ///
    /// # Errors
    /// The system's error, such as `EAGAIN` at a limit on processes.
    pub fn start() -> rustix::io::Result<Self> {
        let length = std::mem::size_of::<Shared>();
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let memory = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                length,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::SHARED,
            )
        }?;
        // Zeroed memory is a valid value: idle, without queries.
        let shared: NonNull<Shared> = NonNull::new(memory.cast()).ok_or(Errno::INVAL)?;
        // SAFETY: no other process sees it yet.
        unsafe { *(*shared.as_ptr()).page_size.get() = page_size() as usize };
        match copy_process(shared) {
            Ok(pid) => Ok(Self { shared, pid, alive: true }),
            Err(errno) => {
                unmap(shared);
                Err(errno)
            }
        }
    }

    /// Call `answer` for each query with a byte for each of its pages, of which bit 0 is set if the
    /// page is in memory and up to date, or with the system's error.
    ///
    /// # Errors
    /// `ESRCH` if the process is gone; nothing was answered then.
    ///
    /// # Panics
    /// With more than [`QUERIES`] queries, or more than [`PAGES`] pages in all.
    pub fn ask(
        &mut self,
        queries: &[Query<'_>],
        mut answer: impl FnMut(usize, rustix::io::Result<&[u8]>),
    ) -> rustix::io::Result<()> {
        assert!(queries.len() <= QUERIES);
        assert!(queries.iter().map(|query| query.pages).sum::<u64>() <= PAGES as u64);
        if !self.alive {
            return Err(Errno::SRCH);
        }
        // SAFETY: the stretch lives as long as this value.
        let shared = unsafe { self.shared.as_ref() };
        // SAFETY: while the state is idle the process does not touch these.
        unsafe {
            *shared.count.get() = queries.len();
            for (slot, query) in (*shared.slots.get()).iter_mut().zip(queries) {
                *slot = Slot {
                    fd: query.fd.as_raw_fd(),
                    errno: 0,
                    offset: (query.start * page_size()).cast_signed(),
                    pages: query.pages as usize,
                };
            }
        }
        shared.state.store(ASKED, Ordering::Release);
        futex(&raw const shared.state, libc::FUTEX_WAKE, 1, None);
        while shared.state.load(Ordering::Acquire) != IDLE {
            futex(&raw const shared.state, libc::FUTEX_WAIT, ASKED, Some(&PATIENCE));
            if shared.state.load(Ordering::Acquire) != IDLE && self.reap(libc::WNOHANG) {
                return Err(Errno::SRCH);
            }
        }
        // SAFETY: as above.
        let (slots, vector) = unsafe { (&*shared.slots.get(), &*shared.vector.get()) };
        let mut from = 0;
        for (index, slot) in slots[..queries.len()].iter().enumerate() {
            let to = from + slot.pages;
            answer(
                index,
                match slot.errno {
                    0 => Ok(&vector[from..to]),
                    errno => Err(Errno::from_raw_os_error(errno)),
                },
            );
            from = to;
        }
        Ok(())
    }

    /// Return whether the process has ended; with no flags, wait until it has.
    fn reap(&mut self, flags: libc::c_int) -> bool {
        if self.alive {
            // SAFETY: the call writes nothing when it is not to report a status.
            let result =
                unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), flags | libc::__WALL) };
            // ECHILD: the process was reaped by another part of this one, so it has ended.
            let interrupted = result < 0
                && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted;
            self.alive = result == 0 || interrupted;
        }
        !self.alive
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        // SAFETY: the stretch lives as long as this value.
        let shared = unsafe { self.shared.as_ref() };
        shared.state.store(ENDING, Ordering::Release);
        futex(&raw const shared.state, libc::FUTEX_WAKE, 1, None);
        while !self.reap(0) {}
        unmap(self.shared);
    }
}

fn unmap(shared: NonNull<Shared>) {
    // SAFETY: it was mapped with this length, and nothing refers to it any more.
    let result = unsafe { libc::munmap(shared.as_ptr().cast(), std::mem::size_of::<Shared>()) };
    debug_assert_eq!(result, 0);
}

/// Wait for a change of `word`, or wake who waits for one. To both, an error is a spurious wake-up.
fn futex(
    word: *const AtomicU32,
    operation: libc::c_int,
    value: u32,
    timeout: Option<&libc::timespec>,
) {
    let timeout = timeout.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word and the timeout live as long as the call, which reads them.
    unsafe { libc::syscall(libc::SYS_futex, word, operation, value, timeout, ZERO, ZERO) };
}

/// Copy the calling thread into a process of its own; return the copy's id.
///
/// This is clone(2) without glibc's preparations for a fork, which would take its locks. There is no
/// exit signal, so that nobody's SIGCHLD handler or `waitpid(-1)` comes upon the process.
fn copy_process(shared: NonNull<Shared>) -> rustix::io::Result<libc::pid_t> {
    // SAFETY: getpid(2) and gettid(2) have no preconditions.
    let parent = unsafe { libc::getpid() };
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are initialised by these calls. The copy is made with all signals blocked: a
    // handler of this process must not run in it. The flags and null pointers make clone(2) what
    // fork(2) is; its copy continues below on a copy of this stack, and never returns.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        let pid = libc::syscall(
            libc::SYS_clone,
            libc::c_long::from(libc::CLONE_FILES),
            ZERO,
            ZERO,
            ZERO,
            ZERO,
        );
        if pid == 0 {
            serve(shared.as_ptr(), parent);
        }
        let error = std::io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        if pid < 0 {
            return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
        }
        Ok(pid as libc::pid_t)
    }
}

/// Answer requests until the state is [`ENDING`] or the parent has ended.
///
/// # Safety
/// `shared` points to the stretch of memory that the two processes share.
unsafe fn serve(shared: *const Shared, parent: libc::pid_t) -> ! {
    // SAFETY: these are system calls on memory that lives as long as the process: the shared
    // stretch, and a name that is static. No page of a file is ever touched.
    unsafe {
        let signal = libc::SIGKILL as libc::c_ulong;
        libc::prctl(libc::PR_SET_PDEATHSIG, signal);
        libc::prctl(libc::PR_SET_NAME, c"holdfast-probe".as_ptr());
        // The parent may have ended before the first of these. If only its thread did, the signal comes
        // when the process ends.
        let mut ending = libc::getppid() != parent;
        let state = &raw const (*shared).state;
        while !ending {
            match (*state).load(Ordering::Acquire) {
                ASKED => {
                    answer(shared);
                    // Unless the state is ENDING by now.
                    let (done, ignored) = (Ordering::Release, Ordering::Relaxed);
                    let _ = (*state).compare_exchange(ASKED, IDLE, done, ignored);
                    futex(state, libc::FUTEX_WAKE, 1, None);
                }
                IDLE => futex(state, libc::FUTEX_WAIT, IDLE, None),
                _ => ending = true,
            }
        }
        loop {
            libc::syscall(libc::SYS_exit_group, ZERO);
        }
    }
}

/// Answer all queries. Each file is mapped only while it is asked about, so that nothing keeps it
/// busy or its space taken.
///
/// # Safety
/// As [`serve`]; the state is [`ASKED`].
unsafe fn answer(shared: *const Shared) {
    // SAFETY: `Prober::ask` checked that the queries fit into the slots and the vector, and writes
    // neither while the state is ASKED.
    unsafe {
        let page_size = *(*shared).page_size.get();
        let count = *(*shared).count.get();
        let slots = (*shared).slots.get().cast::<Slot>();
        let mut vector = (*shared).vector.get().cast::<u8>();
        let mut index = 0;
        while index < count {
            let slot = slots.add(index);
            let length = (*slot).pages.wrapping_mul(page_size);
            let (access, flags) = (libc::PROT_READ, libc::MAP_SHARED);
            let nowhere = std::ptr::null_mut();
            let address = libc::mmap(nowhere, length, access, flags, (*slot).fd, (*slot).offset);
            if address == libc::MAP_FAILED {
                (*slot).errno = *libc::__errno_location();
            } else {
                while libc::mincore(address, length, vector) != 0 {
                    (*slot).errno = *libc::__errno_location();
                    // The kernel is short of memory for a moment.
                    if (*slot).errno != libc::EAGAIN {
                        break;
                    }
                    (*slot).errno = 0;
                    libc::sched_yield();
                }
                libc::munmap(address, length);
            }
            vector = vector.add((*slot).pages);
            index = index.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use rustix::io::Errno;

    use super::{Prober, Query};
    use crate::sys::{Arena, page_size};

    /// A file of 64 pages, some of them written and so in memory, the others in holes.
    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 * page_size()).unwrap();
        for page in [0, 1, 2, 31, 63] {
            file.write_all_at(b"x", page * page_size()).unwrap();
        }
        file
    }

    fn asked(prober: &mut Prober, file: &File) -> rustix::io::Result<Vec<Vec<u8>>> {
        let query = |start, pages| Query { fd: file.as_fd(), start, pages };
        let mut answers = Vec::new();
        prober.ask(&[query(0, 40), query(30, 34)], |_, vector| {
            answers.push(vector.unwrap().iter().map(|byte| byte & 1).collect());
        })?;
        Ok(answers)
    }

    #[test]
    fn it_answers_as_this_process_does_for_files_opened_later() {
        let mut prober = Prober::start().unwrap();
        let file = file();
        let mut arena = Arena::new(64).unwrap();
        let mut here = vec![0; 64];
        arena.map(&file, 0, 64).unwrap().mincore(0, &mut here).unwrap();
        let here: Vec<u8> = here.iter().map(|byte| byte & 1).collect();
        assert_eq!(here.iter().sum::<u8>(), 5);
        for _ in 0..3 {
            let answers = asked(&mut prober, &file).unwrap();
            assert_eq!(answers, [&here[..40], &here[30..]]);
        }
    }

    #[test]
    fn an_error_of_one_file_leaves_the_others_alone() {
        let mut prober = Prober::start().unwrap();
        let (pipe, _) = std::io::pipe().unwrap();
        let file = file();
        let query = |fd| Query { fd, start: 0, pages: 4 };
        let mut answers = Vec::new();
        prober
            .ask(&[query(pipe.as_fd()), query(file.as_fd())], |_, vector| {
                answers.push(vector.map(<[u8]>::len));
            })
            .unwrap();
        assert_eq!(answers, [Err(Errno::NODEV), Ok(4)]);
    }

    #[test]
    fn the_loss_of_the_process_is_an_error_and_not_a_wait_for_ever() {
        let mut prober = Prober::start().unwrap();
        // SAFETY: the process is this test's own child, not yet waited for.
        assert_eq!(unsafe { libc::kill(prober.pid, libc::SIGKILL) }, 0);
        let file = file();
        assert_eq!(asked(&mut prober, &file), Err(Errno::SRCH));
        assert_eq!(asked(&mut prober, &file), Err(Errno::SRCH));
    }

    #[test]
    fn it_ends_with_the_thread_that_made_it() {
        let pid = std::thread::spawn(|| {
            let mut prober = Prober::start().unwrap();
            let pid = prober.pid;
            // Once it has answered it has asked the kernel for the signal.
            asked(&mut prober, &file()).unwrap();
            std::mem::forget(prober);
            pid
        });
        let pid = pid.join().unwrap();
        let mut status = 0;
        // SAFETY: the status lives as long as the call.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }, pid);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL);
    }
}
