#!/usr/bin/env python3
"""Known vulnerabilities in the installed packages; exit code 1 if there are any.

Where the advisories cannot be had (offline, or behind a mirror that has none) it says so and
passes.
"""

import json
import subprocess
import sys

command = [sys.executable, "-m", "pip_audit", "--progress-spinner=off", "--format=json"]
done = subprocess.run([*command, "--skip-editable"], capture_output=True, text=True, check=False)
try:
    packages = json.loads(done.stdout)["dependencies"]
except (ValueError, KeyError):
    reason = (done.stderr.strip() or "no answer").splitlines()[-1]
    print(f"dependencies were not audited, for there are no advisories: {reason}")
    sys.exit()
audited = [package for package in packages if "vulns" in package]
vulnerable = [package for package in audited if package["vulns"]]
print(f"audited {len(audited)} of {len(packages)} packages, {len(vulnerable)} vulnerable")
if not audited:
    print("where these packages came from there are no advisories: audit where PyPI is reached")
for package in vulnerable:
    ids = ", ".join(found["id"] for found in package["vulns"])
    print(f"{package['name']} {package['version']}: {ids}")
sys.exit(bool(vulnerable))
