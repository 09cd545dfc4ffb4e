const url = new URL("../openapi.json", import.meta.url).href; // also behind a path prefix
window.SwaggerUIBundle({ url, dom_id: "#swagger-ui", validatorUrl: null }); // null: no badge of another server
