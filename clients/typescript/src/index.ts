export { Client, type StreamResult } from "./client";
export { MidribError, errorFromStatus } from "./errors";
export { floats, integers, numbers } from "./tensor";
export { Backbone } from "./generated/midrib/v1/backbone";
export { Input, Options } from "./generated/midrib/v1/embedding";
export { DataType, Tensor } from "./generated/midrib/v1/tensor";
