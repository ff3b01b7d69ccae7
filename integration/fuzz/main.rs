//! The long form of fuzzing: libFuzzer drives one target by the coverage it reaches.
//!
//! `fuzz seeds TARGET FOLDER` writes what to begin with and `fuzz targets` lists them; everything else is libFuzzer's
//! own command line, the target in `CAIRN_FUZZ_TARGET`. `make fuzz` does it all.
#![no_main]

use std::sync::OnceLock;

use cairn_fuzz::{TARGETS, Target, seeds};

libfuzzer_sys::fuzz_target!(init: {
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[1..] {
        ["targets"] => {
            TARGETS.iter().for_each(|target| println!("{}", target.name));
            std::process::exit(0);
        }
        ["seeds", target, folder] => {
            for (n, seed) in seeds(target).iter().enumerate() {
                std::fs::write(format!("{folder}/seed-{n}"), seed).expect("the folder is there");
            }
            std::process::exit(0);
        }
        _ => {}
    }
}, |bytes: &[u8]| {
    (target().run)(bytes);
});

fn target() -> &'static Target {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("CAIRN_FUZZ_TARGET").expect("CAIRN_FUZZ_TARGET names a target");
        TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target {name}"))
    })
}
