// The call of the playground in other programs. The token is read from the variable MIDRIB_TOKEN, and never shown.

const SHOWN = 3;

const shellQuoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** Return the snippets by language.  url: the address of the server.  media: "text" or "image". */
export function snippets({ url, model, media, inputs, token }) {
  return media === "image" ? ofPictures(url, model, token) : ofTexts(url, model, inputs.slice(0, SHOWN), token);
}

function ofTexts(url, model, texts, token) {
  const body = JSON.stringify({ model, input: texts.length ? texts : ["good morning"] });
  // Only strings, lists and objects: JSON is also Python and TypeScript.
  return languages(url, token, { curl: `-d ${shellQuoted(body)}`, python: body, script: body });
}

function ofPictures(url, model, token) {
  const name = JSON.stringify(model);
  const before = shellQuoted(`{"model": ${name}, "input": "`);
  return languages(url, token, {
    // By a pipe, because an argument has at most 128 KiB.
    body: `{ printf %s ${before}; base64 < picture.png | tr -d '\\n'; printf '"}'; } |\n`,
    curl: "--data-binary @-",
    python: `{"model": ${name}, "input": base64.b64encode(open("picture.png", "rb").read()).decode()}`,
    script: `{ model: ${name}, input: readFileSync("picture.png").toString("base64") }`,
    pythonImport: "import base64\n",
    scriptImport: 'import { readFileSync } from "node:fs";\n\n',
  });
}

function languages(url, token, { body = "", curl, python, script, pythonImport = "", scriptImport = "" }) {
  const address = `${url}/v1/embeddings`;
  return {
    curl: `${body}curl ${shellQuoted(address)} -H 'Content-Type: application/json' \\\n` +
      (token ? '  -H "Authorization: Bearer $MIDRIB_TOKEN" \\\n' : "") + `  ${curl}`,
    Python: `${pythonImport}import json\n${token ? "import os\n" : ""}import urllib.request\n\n` +
      `body = ${python}\nheaders = {"Content-Type": "application/json"}\n` +
      (token ? 'headers["Authorization"] = f"Bearer {os.environ[\'MIDRIB_TOKEN\']}"\n' : "") +
      `request = urllib.request.Request(${JSON.stringify(address)}, json.dumps(body).encode(), headers)\n` +
      "with urllib.request.urlopen(request) as response:\n    answer = json.load(response)\n" +
      'print([len(row["embedding"]) for row in answer["data"]])',
    TypeScript: `${scriptImport}const response = await fetch(${JSON.stringify(address)}, {\n  method: "POST",\n` +
      `  headers: { "Content-Type": "application/json"${token ? ", Authorization: `Bearer ${process.env.MIDRIB_TOKEN}`" : ""} },\n` +
      `  body: JSON.stringify(${script}),\n});\nconst answer = await response.json();\n` +
      "console.log(answer.data[0].embedding.length);",
  };
}
