// Checks that the API's description is valid. tests/program checks that it fits the responses.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Validator } from "@seriousme/openapi-schema-validator";

test("the description of the API is valid OpenAPI", async () => {
  const validator = new Validator();
  const { valid, errors } = await validator.validate(new URL("../../src/web/openapi.yaml", import.meta.url).pathname);
  assert.ok(valid, JSON.stringify(errors));
  assert.equal(validator.version, "3.1");
});
