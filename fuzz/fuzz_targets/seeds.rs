//! What a fuzzer begins with: inputs made by the code that is tested, so that they are always up to date.

use std::path::PathBuf;

/// Writes the seeds into the folder named by `SLIPRING_FUZZ_SEEDS`, if it is set.
pub fn plant(seeds: impl IntoIterator<Item = impl AsRef<[u8]>>) {
    let Some(folder) = std::env::var_os("SLIPRING_FUZZ_SEEDS").map(PathBuf::from) else { return };
    for (index, seed) in seeds.into_iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{index}")), seed).expect("the folder can be written");
    }
}
