//! Prints all custom resource definitions as YAML: `make crds` writes them to `deploy/crds/overlane.io.yaml`.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    let yaml = overlane_api::crd::all_crds_yaml().map_err(io::Error::other)?;
    io::stdout().write_all(yaml.as_bytes())
}
