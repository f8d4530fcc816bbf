# One static program in an otherwise empty image.
#
#   docker build --build-arg CCX_COMMIT=$(git rev-parse HEAD) -t ccx-data-pipeline .
#   docker run --read-only --tmpfs /tmp -v ./config.toml:/etc/ccx-data-pipeline/config.toml:ro ccx-data-pipeline
#
# scripts/static-check builds the same program in the same way and runs it in an empty root directory.

FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY Cargo.toml Cargo.lock build.rs ./
COPY src ./src
COPY content ./content
COPY data ./data
COPY tests ./tests
# Shown by --version and in reports; the history itself stays outside (.dockerignore).
ARG CCX_COMMIT=""
# The C library goes in as well, so that no loader and no shared library is needed. The build runs on the platform
# that the image is for, so the compiler's own triple is the right one for amd64 and arm64.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    target="$(rustc -vV | sed -n 's/^host: //p')" && \
    RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target "$target" && \
    install -D "target/$target/release/ccx-data-pipeline" /image/ccx-data-pipeline && \
    install -d -m 1777 /image/tmp

FROM scratch
COPY --from=build /image /
# Any other user id works as well, with a read-only root too: /tmp is the only place that is written to.
USER 65532:65532
# Where `run` looks for config.toml. CA roots are compiled in; a bundle at /etc/ssl/certs goes before them.
WORKDIR /etc/ccx-data-pipeline
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/ccx-data-pipeline", "health"]
ENTRYPOINT ["/ccx-data-pipeline"]
CMD ["run"]
