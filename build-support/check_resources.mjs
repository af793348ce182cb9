// Validates the resources of KEDA and of the Prometheus operator in YAML files: node check_resources.mjs FILE...
// build-support/check-deploy copies this file beside the packages that it imports. Fails if none is found.
import fs from "node:fs";

import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import yaml from "js-yaml";

const KINDS = { ScaledObject, ServiceMonitor };
let valid = 0;
for (const file of process.argv.slice(2)) {
  for (const resource of yaml.loadAll(fs.readFileSync(file, "utf8"))) {
    const Kind = KINDS[resource?.kind];
    if (Kind === undefined) continue;
    try {
      new Kind(resource).validate();
      valid += 1;
    } catch (error) {
      console.error(`${file}: the ${resource.kind} is not valid: ${error.message}`);
      process.exitCode = 1;
    }
  }
}
console.log(`KEDA and the Prometheus operator: ${valid} resources are valid`);
if (valid === 0) process.exitCode = 1;
