export { Client, type StreamResult } from "./client.js";
export { inputOf, type PlainInput } from "./inputs.js";
export { type Embedding } from "./shared.js";
export { MidribError, errorFromStatus } from "./errors.js";
export { floats, integers, numbers } from "./tensor.js";
export { Backbone } from "./generated/midrib/v1/backbone.js";
export { Input, Options } from "./generated/midrib/v1/embedding.js";
export { DataType, Tensor } from "./generated/midrib/v1/tensor.js";
