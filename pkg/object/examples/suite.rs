//! Runs the object suite on a store that somebody else has started, below a prefix of its own.
//!
//! `suite STORAGE BUCKET`, keys in ACCESS_KEY, SECRET_KEY and SESSION_TOKEN.

use std::error::Error;

use cairn_env::Env;
use cairn_object::{Location, open, testing::suite};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(storage), Some(bucket)) = (arguments.next(), arguments.next()) else {
        return Err("usage: suite STORAGE BUCKET".into());
    };
    let variable = |name| std::env::var(name).unwrap_or_default();
    let env = Env::real();
    let location = Location {
        access_key: variable("ACCESS_KEY"),
        secret_key: variable("SECRET_KEY"),
        session_token: variable("SESSION_TOKEN"),
        prefix: format!("cairn-suite-{:016x}/", env.random()),
        ..Location::new(&storage, &bucket)
    };
    let store = open(&env, &location)?;
    println!("running the suite on {}", store.describe());
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(suite(store));
    println!("passed");
    Ok(())
}
