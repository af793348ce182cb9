// A layer of deck.gl that draws each point as one vertex. deck.gl's ScatterplotLayer draws each as an instance of four
// vertices: without a GPU, a frame of 100,000 points then takes seconds.

import { Layer, Model, picking, project32 } from "./vendor/deck/deck.js";

const UNIFORMS = "layout(std140) uniform pointsUniforms { float diameter; } points;\n";
const VERTEX = `#version 300 es
in vec2 positions;
in vec4 colours;
out vec4 colour;
void main() {
  geometry.pickingColor = picking_getPickingColorFromIndex(float(gl_VertexID));
  gl_Position = project_position_to_clipspace(vec3(positions, 0.0), vec3(0.0), vec3(0.0), geometry.position);
  gl_PointSize = points.diameter * project.devicePixelRatio;
  colour = colours;
  DECKGL_FILTER_COLOR(colour, geometry);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec4 colour;
out vec4 fragColor;
void main() {
  float inside = 0.5 - length(gl_PointCoord - 0.5);
  if (inside < 0.0) discard;
  fragColor = vec4(colour.rgb, colour.a * smoothstep(0.0, fwidth(inside), inside));
  DECKGL_FILTER_COLOR(fragColor, geometry);
}`;

/** data: a number of points as `length`, and `attributes` with the arrays getPosition and getColour.
 *  diameter: in CSS pixels.  shown: the number of points to draw, from the first. */
export class Points extends Layer {
  static layerName = "Points";
  static defaultProps = { diameter: 7, shown: Infinity, getPosition: { type: "accessor" }, getColour: { type: "accessor" } };

  initializeState() {
    const attributes = this.getAttributeManager();
    attributes.add({
      positions: { size: 2, accessor: "getPosition" },
      colours: { size: 4, type: "unorm8", accessor: "getColour" },
    });
    const modules = [project32, picking, { name: "points", vs: UNIFORMS, uniformTypes: { diameter: "f32" } }];
    this.setState({ model: new Model(this.context.device, {
      ...this.getShaders({ vs: VERTEX, fs: FRAGMENT, modules }), id: this.props.id, topology: "point-list",
      bufferLayout: attributes.getBufferLayouts(),
    }) });
  }

  draw() {
    const { model } = this.state;
    model.setVertexCount(Math.min(this.getNumInstances(), this.props.shown));
    model.shaderInputs.setProps({ points: { diameter: this.props.diameter } });
    model.draw(this.context.renderPass);
  }
}
