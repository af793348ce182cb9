// The types of a Grafana dashboard, from Grafana's own schema: build-support/check-deploy checks the dashboard by them.
import type { Options } from "./node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen";
import type * as dashboards from "./node_modules/@grafana/schema/dist/types/raw/dashboard/x/types.gen";

// JSON has the value of an enumeration, not its name in TypeScript.
type Plain<T> = T extends string
  ? string extends T
    ? string
    : `${T}`
  : T extends object
    ? { [Key in keyof T]: Plain<T[Key]> }
    : T;

// The schema leaves the queries to each data source; these are the fields of Prometheus' that the dashboard uses.
type Query = { refId: string; expr: string; legendFormat?: string; datasource: { type: "prometheus"; uid: string } };
type Panel = Plain<dashboards.Panel> & { type: "timeseries"; options: Plain<Options>; targets: Query[] };

export type Dashboard = Omit<Plain<dashboards.Dashboard>, "panels"> & { panels: Panel[] };
