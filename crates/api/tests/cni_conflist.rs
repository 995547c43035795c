//! Must catch: an installed conflist, or an answer to VERSION, from which a runtime cannot choose each version that the
//! plugin speaks.
#![allow(clippy::unwrap_used, reason = "tests")]

use expect_test::expect;
use overlane_api::cni::{Conflist, NetConf, VersionReport};

#[test]
fn version_report() {
    let report = VersionReport::echoing("0.4.0".to_owned());
    expect![[r#"{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}"#]]
        .assert_eq(&serde_json::to_string(&report).unwrap());
}

#[test]
fn conflist() {
    let list = Conflist::new("/run/overlane".into());
    let text = list.render();
    expect![[r#"
        {
          "cniVersion": "1.0.0",
          "cniVersions": [
            "0.3.1",
            "0.4.0",
            "1.0.0",
            "1.1.0"
          ],
          "name": "overlane",
          "plugins": [
            {
              "type": "overlane-cni",
              "capabilities": {
                "bandwidth": true,
                "dns": true,
                "portMappings": true
              },
              "runDir": "/run/overlane",
              "socket": "/run/overlane/agent.sock"
            }
          ]
        }
    "#]]
    .assert_eq(&text);
    // What a runtime makes of it is a configuration that the plugin takes.
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    for version in value["cniVersions"].as_array().unwrap() {
        let mut conf = value["plugins"][0].clone();
        conf["cniVersion"] = version.clone();
        conf["name"] = value["name"].clone();
        let conf = NetConf::parse(conf.to_string().as_bytes()).unwrap();
        assert_eq!((conf.socket, conf.run_dir), (list.socket.clone(), list.run_dir.clone()));
    }
}
