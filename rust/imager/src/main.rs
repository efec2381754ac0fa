//! `/init` of the initramfs; as any other process it only tells its version.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        holdfast_imager::init::run();
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
