//! Mounting the copy of a root, and giving it an identity as the imager will.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use holdfast_engine::image::Descriptor;
use holdfast_engine::image::descriptor::Partition;
use holdfast_engine::image::rules::{Facts, carried_root, is_verified};

use super::location::{RootLocation, Unextended};
use super::loop_device::LoopDevice;
use super::mounting::{Unmounted, attach, attempt, forget};
use super::rows::{Outcome, Rows};
use super::step;
use crate::Result;
use crate::disk::grow;
use crate::disk::mount;
use crate::identity::names::Names;
use crate::identity::place::Root;
use crate::identity::system_root::{self, SystemRoot};
use crate::identity::{Identity, Report, SUPERUSER, cloud_init};
use crate::systems::marker;

/// What the marker takes at most beside its entry of each file, in bytes.
const MARKER: usize = 8192;
/// Whether the running kernel has a policy of SELinux, which decides about labels.
const POLICY: &str = "/sys/fs/selinux/enforce";

/// A root that is tried.
pub struct RootTrial<'a> {
    /// The image.
    pub image: &'a Descriptor,
    /// Where the root's file system is.
    pub place: RootLocation<'a>,
    /// What is carried over.
    pub identity: &'a Identity,
    /// The size of the partition once it is extended.
    pub extended_to: Option<u64>,
}

impl RootTrial<'_> {
    fn kind(&self) -> &str {
        self.place.kind
    }

    /// How bad it is that the root cannot be written to: without a marker, and with nothing to carry
    /// over, the new system is still recognised by the UUID of its root.
    fn fault(&self) -> Outcome {
        if self.identity.is_empty() { Outcome::Warning } else { Outcome::Failed }
    }

    fn subvolume(&self) -> Option<&str> {
        self.image.inspection.root.as_ref().and_then(|root| root.subvolume.as_deref())
    }

    /// Why the root is not mounted at all, as a sentence.
    pub fn hindrance(&self) -> Option<String> {
        if mount::still_options(self.kind()).is_none() {
            return Some(format!("The root is on {}, which is not mounted.", self.kind()));
        }
        let uuid = self.place.uuid;
        // The kernel would take the copy for another device of the same file system.
        (self.kind() == "btrfs" && Path::new("/sys/fs/btrfs").join(uuid).is_dir()).then(|| {
            format!(
                "A btrfs with the UUID of the image's root ({uuid}) is mounted on this machine, beside \
                 which the kernel mounts no copy."
            )
        })
    }

    /// Try everything; the copy of the image is mounted at `at`.
    pub fn run(&self, file: &File, at: &Path, rows: &mut Rows) {
        step("mount");
        let (start, size) = (self.place.start, self.place.length);
        match attach(file, start, size, false)
            .and_then(|device| self.mounted(&device, false, at, |root| self.inspect(root, rows)))
        {
            Ok(()) => {}
            Err(Unmounted { outcome, why }) => return self.unmounted("mount", outcome, why, rows),
        }
        let facts = Facts::from(self.image);
        if let Err(why) = carried_root(&facts) {
            let touched = if is_verified(&facts) { " It is not touched." } else { "" };
            rows.add("identity", Outcome::NotTried, format!("{why}{touched}"));
            return;
        }
        step("write");
        let size = match self.extended_to.map(|bytes| self.place.extend(file, bytes)) {
            None => size,
            Some(Ok(size)) => size,
            Some(Err(Unextended::Copy(error))) => {
                let why = format!("The copy cannot be extended: {error}.");
                rows.add("write", Outcome::NotTried, why);
                return;
            }
            Some(Err(Unextended::Volume(note))) => {
                let advice = "Make the root's volume the last one on its physical volume.";
                rows.advise("grow", Outcome::Warning, sentence(&note), advice);
                size
            }
        };
        let grown = size > self.place.length;
        let report = attach(file, start, size, true).and_then(|device| {
            let put = self
                .mounted(&device, true, at, |root| self.put(root, grown.then_some(size), rows))?;
            let Some(report) = put else { return Ok(()) };
            step("check");
            self.mounted(&device, false, at, |root| check(root, &report, rows))
        });
        if let Err(Unmounted { outcome, why }) = report {
            self.unmounted("write", outcome, why, rows);
        }
    }

    fn unmounted(&self, check: &'static str, outcome: Outcome, why: String, rows: &mut Rows) {
        if outcome == Outcome::NotTried {
            return rows.add(check, outcome, why);
        }
        rows.advise(
            check,
            self.fault(),
            why,
            "Use an image whose root this machine's kernel knows (mkfs has options to leave features \
             out), or boot a newer kernel first; with `\"identity\": []` nothing is carried over.",
        );
    }

    /// Mount, work, and unmount; a failure to unmount is reported as well.
    fn mounted<T>(
        &self,
        device: &LoopDevice,
        writable: bool,
        at: &Path,
        work: impl FnOnce(&Path) -> T,
    ) -> std::result::Result<T, Unmounted> {
        let kind = self.kind();
        let mounted = attempt(device, kind, self.subvolume(), writable, at)?;
        let done = work(mounted.path());
        let unmounted = mounted.unmount();
        if kind == "btrfs" {
            forget(device.path());
        }
        unmounted
            .map_err(|fault| Unmounted { outcome: Outcome::Failed, why: format!("{fault}.") })?;
        Ok(done)
    }

    /// What can be seen without writing.
    fn inspect(&self, top: &Path, rows: &mut Rows) {
        let kind = self.kind();
        let subvolume =
            self.subvolume().map_or_else(String::new, |path| format!(", subvolume {path}"));
        rows.add(
            "mount",
            Outcome::Passed,
            format!("This kernel mounts the root ({kind}{subvolume}) read-only."),
        );
        let system = match self.find(top) {
            Ok(system) => system,
            Err(fault) => {
                rows.advise(
                    "system",
                    self.fault(),
                    sentence(&fault.to_string()),
                    "Describe the image with `--root-partition`.",
                );
                return;
            }
        };
        let deployment = system.deployment.as_ref();
        rows.add(
            "system",
            Outcome::Passed,
            deployment.map_or_else(
                || "The root is that of a system.".to_owned(),
                |path| format!("Identity goes into the deployment {path}."),
            ),
        );
        self.owners(&system.root, rows);
    }

    fn find(&self, top: &Path) -> Result<SystemRoot> {
        let top = Root::open(top)?;
        if self.identity.is_empty() { system_root::find_any(top) } else { system_root::find(top) }
    }

    /// Users and groups whose numbers are those of the old system, since the new one has none of the
    /// name.
    fn owners(&self, root: &Root, rows: &mut Rows) {
        if self.identity.is_empty() {
            return;
        }
        let names = Names::read(root);
        let files = self.identity.files.iter().map(|file| (&file.user, &file.group));
        let directories =
            self.identity.directories.iter().map(|directory| (&directory.user, &directory.group));
        let mut missing = BTreeSet::new();
        for (user, group) in files.chain(directories) {
            if let Some(user) = user.as_ref().filter(|user| !names.has_user(user)) {
                missing.insert(format!("user {user}"));
            }
            if let Some(group) = group.as_ref().filter(|group| !names.has_group(group)) {
                missing.insert(format!("group {group}"));
            }
        }
        if missing.is_empty() {
            rows.add("owners", Outcome::Passed, "The new system has all users and groups by name.");
        } else {
            let missing: Vec<_> = missing.into_iter().collect();
            rows.advise(
                "owners",
                Outcome::Warning,
                format!(
                    "The new system does not have {}; files of theirs keep the old system's numbers, \
                     which may be another's.",
                    missing.join(", ")
                ),
                "Create them in the image.",
            );
        }
    }

    /// Do to the copy what the imager will do; what was put in place, if it was.
    fn put(&self, top: &Path, extended_to: Option<u64>, rows: &mut Rows) -> Option<Report> {
        let kind = self.kind();
        rows.add(
            "write",
            Outcome::Passed,
            format!("This kernel mounts a copy of the root ({kind}) for writing."),
        );
        if let Some(bytes) = extended_to {
            match grow::grow(top, kind, bytes) {
                Ok(_) => rows.add("grow", Outcome::Passed, "The copy's file system was extended."),
                Err(fault) => rows.advise(
                    "grow",
                    Outcome::Warning,
                    format!("The root would not be extended: {fault}."),
                    "Leave out `grow_root`, or build the image with more free space.",
                ),
            }
        }
        // Another system was reported before.
        let SystemRoot { root, deployment } = self.find(top).ok()?;
        space(top, rows);
        marker::reserve(&root, self.identity);
        let report = Report { deployment, ..self.identity.put(&root) };
        root.release(marker::PATH);
        let marker = vec![b' '; MARKER + 512 * self.identity.files.len()];
        let written = root.put_file(marker::PATH, &marker, 0o600, SUPERUSER);
        self.add_findings(&root, &report, rows);
        match written {
            Ok(_) => {
                rows.add("marker", Outcome::Passed, "The marker of the new system can be written.")
            }
            Err(failure) => rows.advise(
                "marker",
                self.fault(),
                format!("The marker {} cannot be written: {}.", marker::PATH, failure.fault),
                more_space(),
            ),
        }
        Some(report)
    }

    /// The rows about the outcome of the identity.
    fn add_findings(&self, root: &Root, report: &Report, rows: &mut Rows) {
        let (carried, all) = (report.carried.len(), self.identity.files.len());
        let problems: Vec<_> = report.problems.iter().map(|problem| sentence(problem)).collect();
        let detail = if self.identity.is_empty() {
            "Nothing is carried over.".to_owned()
        } else {
            format!("{carried} of {all} files can be carried over.")
        };
        let detail = std::iter::once(detail).chain(problems).collect::<Vec<_>>().join(" ");
        if carried < all {
            let full = report.problems.iter().any(|problem| problem.contains("o space left"));
            let advice = "Change the image, or leave that part out of `identity`.";
            rows.advise(
                "identity",
                Outcome::Failed,
                detail,
                if full { more_space() } else { advice },
            );
        } else if report.problems.is_empty() {
            rows.add("identity", Outcome::Passed, detail);
        } else {
            rows.advise(
                "identity",
                Outcome::Warning,
                detail,
                "The new system will be `unconfirmed`.",
            );
        }
        if self.identity.is_empty() {
            return;
        }
        if let Some(selinux) = &report.selinux {
            if Path::new(POLICY).exists() {
                rows.add(
                    "selinux",
                    Outcome::NotTried,
                    "The policy of the running kernel decides about labels here, and not in the imager.",
                );
            } else if selinux.relabel {
                rows.advise(
                    "selinux",
                    Outcome::Warning,
                    format!(
                        "SELinux is {}, and not all files have a label to copy: relabelling is ordered, \
                         which takes another boot.",
                        selinux.mode
                    ),
                    "Label the files of the image.",
                );
            } else {
                rows.add(
                    "selinux",
                    Outcome::Passed,
                    format!("SELinux is {}, and all files get labels.", selinux.mode),
                );
            }
        } else {
            rows.add("selinux", Outcome::Passed, "SELinux is off in the image, or not there.");
        }
        let cloud = match (&report.cloud_init, cloud_init::is_in(root)) {
            (Some(file), _) => {
                format!("{} makes cloud-init keep what was carried over.", file.path)
            }
            (None, true) => "cloud-init is in the image and needs no settings.".to_owned(),
            (None, false) => "There is no cloud-init in the image.".to_owned(),
        };
        rows.add("cloud_init", Outcome::Passed, cloud);
    }
}

/// Mount a partition that the boot loader reads, read-only; it is not the imager's to write.
pub fn boot(file: &File, partition: &Partition, at: &Path, rows: &mut Rows) {
    let kind = partition.file_system.as_deref().unwrap_or_default();
    let number = partition.number;
    if mount::still_options(kind).is_none() {
        return;
    }
    let tried =
        attach(file, partition.start_bytes, partition.size_bytes, false).and_then(|device| {
            let mounted = attempt(&device, kind, None, false, at)?;
            let done = mounted.unmount();
            done.map_err(|fault| Unmounted { outcome: Outcome::Failed, why: format!("{fault}.") })
        });
    match tried {
        Ok(()) => {
            rows.add(
                "boot",
                Outcome::Passed,
                format!("Partition {number} ({kind}) can be mounted."),
            );
        }
        Err(Unmounted { outcome, why }) => {
            let outcome = if outcome == Outcome::Failed { Outcome::Warning } else { outcome };
            rows.add("boot", outcome, format!("Partition {number}: {why}"));
        }
    }
}

/// How much space there is, before anything is written.
fn space(top: &Path, rows: &mut Rows) {
    match rustix::fs::statvfs(top) {
        Ok(found) => {
            let bytes = found.f_bfree * found.f_frsize;
            let inodes = if found.f_files == 0 {
                "as many files as there is space for".to_owned()
            } else {
                format!("{} inodes", found.f_ffree)
            };
            let full = bytes < 1 << 20 || (found.f_files > 0 && found.f_ffree < 64);
            let detail = format!("The root has {bytes} bytes and {inodes} free.");
            if full {
                rows.advise("space", Outcome::Warning, detail, more_space());
            } else {
                rows.add("space", Outcome::Passed, detail);
            }
        }
        Err(error) => {
            rows.add("space", Outcome::Warning, format!("Free space is not known: {error}."))
        }
    }
}

fn more_space() -> &'static str {
    "Use `grow_root` (`--grow-root`), or build the image with more free space."
}

/// Whether what was put in place is there after the copy was unmounted.
fn check(top: &Path, report: &Report, rows: &mut Rows) {
    let differs = Root::open(top)
        .and_then(|top| match &report.deployment {
            Some(path) => top.open_below(path),
            None => Ok(top),
        })
        .map_err(|fault| fault.to_string())
        .and_then(|root| report.check(&root));
    if let Err(path) = differs {
        rows.advise(
            "check",
            Outcome::Failed,
            format!(
                "{path} reads back differently than it was written: the file system is damaged."
            ),
            "Check the file system of the image, and build it again.",
        );
    }
}

/// A clause as a sentence.
fn sentence(clause: &str) -> String {
    let mut letters = clause.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let rest = letters.as_str();
    if clause.starts_with('/') {
        format!("{}.", clause.trim_end_matches('.'))
    } else {
        format!("{first}{}.", rest.trim_end_matches('.'))
    }
}
