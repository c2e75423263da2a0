import { ready } from "../core/shell.js";

ready(async () => {});
