# For those who have a container engine; the project itself makes its images without one (`make images`).
#   docker build --target vsecm-safe --tag registry.example.com/vsecm/vsecm-safe:0.1.0 .
# Targets: vsecm-safe, vsecm-sentinel, vsecm-node-agent, vsecm-csi, vsecm-keeper. Users and paths are those of
# .ci/images.sh; static binaries, so each image is its binary alone.
FROM rust:1.95.0-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends busybox-static && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --locked --release --target x86_64-unknown-linux-gnu \
      --config 'target.x86_64-unknown-linux-gnu.rustflags=["-C","target-feature=+crt-static","-C","force-unwind-tables=no"]' \
      -p vsecm-safe -p vsecm-sentinel -p vsecm-node-agent -p vsecm-csi --bins \
 && mkdir -p -m 1777 /out/sentinel/tmp && mkdir -p /out/sentinel/bin && cd target/x86_64-unknown-linux-gnu/release \
 && cp vsecm-safe vsecm-node-agent vsecm-csi vsecm-keeper /out/ \
 && cp safe vsecm-sentinel /bin/busybox /out/sentinel/bin/ \
 && for command in $(busybox --list); do [ "$command" = busybox ] || ln -s busybox "/out/sentinel/bin/$command"; done

FROM scratch AS vsecm-safe
COPY --from=build /out/vsecm-safe /vsecm-safe
USER 61001:61001
ENTRYPOINT ["/vsecm-safe"]

FROM scratch AS vsecm-sentinel
COPY --from=build /out/sentinel /
USER 61002:61002
ENTRYPOINT ["/bin/vsecm-sentinel"]

FROM scratch AS vsecm-node-agent
COPY --from=build /out/vsecm-node-agent /vsecm-node-agent
USER 61003:0
ENTRYPOINT ["/vsecm-node-agent"]

FROM scratch AS vsecm-csi
COPY --from=build /out/vsecm-csi /vsecm-csi
USER 0:0
ENTRYPOINT ["/vsecm-csi"]

FROM scratch AS vsecm-keeper
COPY --from=build /out/vsecm-keeper /vsecm-keeper
USER 61004:61004
ENTRYPOINT ["/vsecm-keeper"]
