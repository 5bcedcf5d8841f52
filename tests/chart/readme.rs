//! The chart's README has its table of values from values.yaml.

use std::process::Command;

use crate::support::CHART;

#[test]
fn the_table_of_values_is_up_to_date() {
    let readme = std::fs::read_to_string(format!("{CHART}/README.md")).unwrap();
    let output = Command::new(format!("{CHART}/../readme.sh")).arg("--print").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made = String::from_utf8(output.stdout).unwrap();
    assert!(readme == made, "charts/vsecm/README.md is not what charts/readme.sh makes: run it");
}
