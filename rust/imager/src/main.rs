//! `/init` of the initramfs; as any other process it prints its version, or tries an image (`try`).

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        holdfast_imager::initramfs::run();
    }
    if std::env::args().nth(1).as_deref() == Some("try") {
        return holdfast_imager::trial::run();
    }
    println!("holdfast-imager {}", env!("CARGO_PKG_VERSION"));
    if std::env::args().nth(1).as_deref() == Some("--version") {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "holdfast-imager: this is the first process of an initramfs that `holdfast reimage arm` makes"
    );
    ExitCode::from(2)
}
