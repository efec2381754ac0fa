//! Loading kernel modules.

use std::fs::File;
use std::path::Path;

use rustix::io::Errno;

use crate::say;

/// Load modules in their order. One that cannot be loaded is reported and skipped: what it was for
/// will be missed where it is needed, and some modules refuse machines without their hardware.
pub fn load(directory: &Path, names: &[String]) {
    let mut loaded = 0_usize;
    for name in names {
        let path = directory.join(name);
        let result = File::open(&path).map_err(|e| e.to_string()).and_then(|file| {
            match rustix::system::finit_module(&file, c"", 0) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        });
        match result {
            Ok(()) => loaded += 1,
            Err(error) => say!("the module {name} cannot be loaded: {error}"),
        }
    }
    say!("loaded {loaded} of {} kernel modules", names.len());
}
