//! What the armed machine left in the initramfs.

use std::fs;
use std::path::{Path, PathBuf};

use holdfast_engine::image::{Descriptor, Sha256};

use crate::disk::Disk;
use crate::disk::target;
use crate::identity::Identity;
use crate::job::Job;
use crate::{Context as _, Fault, Result, say};

/// What the armed machine left in the initramfs.
#[derive(Debug)]
pub struct Armed {
    directory: PathBuf,
}

impl Armed {
    /// In this directory.
    pub fn in_directory(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The content of a file in it.
    ///
    /// # Errors
    /// The system's, with the path.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.directory.join(name);
        fs::read(&path).context(path.display())
    }

    /// The job.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn job(&self) -> Result<Job> {
        Job::parse(&self.read("job.json")?)
    }

    fn descriptor(&self, job: &Job) -> Result<Descriptor> {
        let json = self.read("descriptor.json")?;
        if Sha256::of(&json) != job.descriptor_sha256 {
            return Err(Fault::new("the descriptor is not the one that the job names"));
        }
        Ok(Descriptor::parse(&self.directory.join("descriptor.json"), &json)?)
    }

    /// Who the machine is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn identity(&self) -> Result<Identity> {
        Identity::parse(&self.read("identity.json")?)
    }

    /// The descriptor of the image.
    ///
    /// # Errors
    /// What is wrong with it, or why the image cannot be on this disk.
    pub fn image(&self, job: &Job, disk: &Disk) -> Result<Descriptor> {
        let image = self.descriptor(job)?;
        say!("the image is {} {}, {} bytes", image.name, image.image_version, image.size_bytes);
        target::check_fit(&image, disk)?;
        Ok(image)
    }
}
