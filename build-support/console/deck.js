// The parts of deck.gl that the map of the console uses: build-support/vendor bundles them.
export { Deck, Layer, OrthographicView, picking, project32 } from "@deck.gl/core";
export { Model } from "@luma.gl/engine";
